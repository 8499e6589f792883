"""Changes while the gateway runs: a complete or refused reload; streams that continue or end; renewed certificates; deny lists."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.interop.trust_posh import Web
from tests.lab.certificates import Names
from tests.lab.lab import Lab
from tests.lab.nameserver import nameserver
from tests.lab.peer import STREAMS, Stream, client_context, header, stream_error
from tests.lab.scenario import Stage, check, expect, step
from tests.lab.trust_world import INSIDE, Trusting, trusting

GOOD, BAD, THIRD, LISTED = (f"{name}.example" for name in ("good", "bad", "third", "listed"))
LISTS, WEB, PATH = "lists.example", "127.44.53.3", "/deny.txt"


@dataclass
class Changing:
    """A gateway whose file the scenarios change; `original` is its first configuration."""

    at: Trusting
    original: str
    web: Web

    def write(self, text: str) -> None:
        self.at.gateway.config.write_text(text)

    def also(self, text: str) -> None:
        """Return the original file with `text` after it."""
        self.write(f"{self.original}\n{text}\n")

    def reload(self, *words: str) -> dict[str, Any]:
        """Run `s2sgw reload`; return its answer."""
        return dict(self.at.gateway.asked("reload", *words))

    def restore(self) -> None:
        self.write(self.original)
        check(self.reload()["ok"], "the original file was refused")

    def enter(self, domain: str) -> Stream:
        return self.at.enter(domain, self.at.certificates[domain])

    def lives(self, stream: Stream, domain: str, text: str) -> None:
        """Check that a message on the stream is echoed."""
        stream.send(f"<message from='a@{domain}/x' to='echo@{INSIDE}' type='chat'><body>{text}</body></message>")
        check(self.at.heard(domain, text), f"{domain}: the stream has ended")

    def audited(self, action: str) -> list[dict[str, Any]]:
        lines = (self.at.gateway.folder / "state" / "audit.log").read_text().splitlines()
        return [row for row in map(json.loads, lines) if row["action"] == action]

    def refusal_of(self, domain: str) -> tuple[str, str]:
        """Return the answer to a header of `domain`: condition and text of the error, or ("", "")."""
        stream = Stream.dial(self.at.gateway.port)
        stream.send(header(INSIDE, domain))
        answer = stream.expect(f"{STREAMS}features", f"{STREAMS}error")
        stream.close()
        return stream_error(answer) if answer.tag == f"{STREAMS}error" else ("", "")


@asynccontextmanager
async def _built(lab: Lab) -> AsyncIterator[Changing]:
    def build() -> Changing:
        at, dns = trusting(lab), nameserver(lab)
        for domain in (GOOD, BAD, THIRD, LISTED):
            dns.serve(domain, at.listen(domain, at.authority.for_domain(domain)).port)
        dns.records.append(f"{LISTS}. 5 IN A {WEB}")
        dns.start()
        at.configure(dns)
        at.start()
        return Changing(at, at.gateway.config.read_text(), Web(WEB, at.authority.issue(Names(dns=(LISTS,)))))
    made = await asyncio.to_thread(build)
    try:
        yield made
    finally:
        made.at.gateway.stop()
        made.web.close()


stage = Stage("reload and deny lists", _built)


def _scenario(title: str) -> Callable[[Callable[[Changing], None]], None]:
    def add(run: Callable[[Changing], None]) -> None:
        def restored(made: Changing) -> None:
            try:
                run(made)
            finally:
                made.restore()
        def started(made: Changing) -> Awaitable[None]:
            return asyncio.to_thread(restored, made)
        stage.scenario(title)(started)
    return add


def _keys(answer: Mapping[str, Any]) -> list[str]:
    return [row["key"] for row in answer["changes"]]


@_scenario("a stream that the new policy refuses ends with <policy-violation/>, the others continue; the audit log has it")
def _refused(made: Changing) -> None:
    good, bad = made.enter(GOOD), made.enter(BAD)
    made.lives(bad, BAD, "before the reload")
    made.also(f'[peers."{BAD}"]\nallow = false')
    answer = made.reload()
    expect((answer["ok"], _keys(answer)), (True, [f'peers."{BAD}".allow']), "the answer")
    directions = sorted(row["direction"] for row in answer["closed"] if row["peer"] == BAD)
    expect(directions, ["inbound", "outbound"], "closed")
    condition, text = bad.end()
    expect(condition, "policy-violation", "the error")
    check(bad.closed, "no closing tag")
    step(text)
    made.lives(good, GOOD, "the stream continues")
    expect(made.refusal_of(BAD)[0], "policy-violation", "a new stream")
    row = made.audited("reload")[-1]
    expect((row["by"], row["changes"][0]), ("s2sgw reload", {"key": f'peers."{BAD}".allow', "old": None, "new": False}), "audit")
    expect({each["peer"] for each in made.audited("streams closed")[-1]["streams"]}, {BAD}, "audit, streams")
    mode = (made.at.gateway.folder / "state" / "audit.log").stat().st_mode & 0o777
    expect(mode, 0o600, "mode of audit.log")
    made.restore()
    made.enter(BAD).close()
    good.close()


@_scenario("--keep-streams: nothing is closed, and the policy applies to new streams")
def _kept(made: Changing) -> None:
    bad = made.enter(BAD)
    made.lives(bad, BAD, "both directions before")
    made.also(f'[peers."{BAD}"]\nproofs = ["dane"]')
    answer = made.reload("--keep-streams")
    expect((answer["ok"], answer["closed"]), (True, []), "the answer")
    made.lives(bad, BAD, "kept")
    made.at.refused(BAD, made.at.certificates[BAD])
    bad.close()


@_scenario("a proof that is no longer accepted ends its streams")
def _proof(made: Changing) -> None:
    bad = made.enter(BAD)
    made.also(f'[peers."{BAD}"]\nproofs = ["dane"]')
    check(any(row["peer"] == BAD for row in made.reload()["closed"]), "nothing was closed")
    expect(bad.end()[0], "policy-violation", "the error")


def _with_window(text: str) -> str:
    """Return a configuration with a key that a reload cannot change."""
    line = 'window = "50ms"\n'
    return text.replace("[queue]\n", "[queue]\n" + line) if "[queue]\n" in text else f"{text}\n[queue]\n{line}"


@_scenario("a bad file changes nothing, and every error is reported; so is a change that needs a restart")
def _bad(made: Changing) -> None:
    good = made.enter(GOOD)
    made.also(f'[peers."{GOOD}"]\nallow = false\ntsl = "required"\n[peers."{BAD}"]\nallow = "maybe"')
    answer = made.reload()
    expect((answer["ok"], len(answer["complaints"])), (False, 2), "the answer")
    check("tsl" in answer["complaints"][0] and "maybe" not in answer["changes"], str(answer))
    made.lives(good, GOOD, "nothing changed")
    made.write(_with_window(made.original) + f'\n[peers."{GOOD}"]\nallow = false\n')
    answer = made.reload()
    expect(answer["complaints"], ["queue.window: can change only at a restart"], "needs a restart")
    made.lives(good, GOOD, "nothing changed again")
    expect([row["by"] for row in made.audited("reload refused")], ["s2sgw reload"] * 2, "audit")
    text = made.at.gateway.command("reload", check=False)
    check("can change only" not in text, "errors belong on standard error")
    good.close()


@_scenario("SIGHUP does the same, and the log reports it")
def _signal(made: Changing) -> None:
    bad = made.enter(BAD)
    made.also(f'[peers."{BAD}"]\nallow = false')
    process = made.at.gateway.process
    assert process is not None
    process.signal(signal.SIGHUP)
    expect(bad.end()[0], "policy-violation", "the error")
    made.write("this is no TOML")
    process.signal(signal.SIGHUP)
    _until(lambda: "reload refused" in made.at.gateway.logged(), "the refusal in the log")
    expect(made.refusal_of(BAD)[0], "policy-violation", "the policy before holds")
    expect(made.audited("reload")[-1]["by"], "SIGHUP", "audit")


def _until(seen: Callable[[], bool], what: str, seconds: float = 8.0) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        check(time.monotonic() < deadline, f"not seen: {what}")
        time.sleep(0.05)


def _shown(made: Changing) -> bytes:
    """Return the certificate that the gateway presents."""
    stream = Stream.dial(made.at.gateway.port)
    stream.open(INSIDE, GOOD)
    stream.starttls(client_context(made.at.certificates[GOOD]), INSIDE)
    raw = stream.raw
    assert isinstance(raw, ssl.SSLSocket)
    shown = raw.getpeercert(binary_form=True) or b""
    stream.close()
    return shown


@_scenario("a renewed certificate is presented after the reload, streams continue; one without its key changes nothing")
def _renewed(made: Changing) -> None:
    good, before = made.enter(GOOD), _shown(made)
    store, fresh = made.at.gateway.folder / "certs", made.at.authority.for_domain(INSIDE)
    shutil.copy(fresh.chain, store / "0.crt")
    answer = made.reload()
    check(not answer["ok"] and "0.key" in str(answer["complaints"]), str(answer))
    expect(_shown(made), before, "with half of it renewed")
    shutil.copy(fresh.key, store / "0.key")
    answer = made.reload()
    expect((answer["ok"], answer["certificates"]), (True, ["0"]), "the answer")
    check(_shown(made) != before, "the old certificate is still presented")
    made.lives(good, GOOD, "through the renewal")
    good.close()


@_scenario("a deny list in a file: streams of its names end, and the error does not name the list")
def _file(made: Changing) -> None:
    names = made.at.gateway.folder / "deny.txt"
    names.write_text(f"# spam\n{BAD}\n*.{THIRD}\n")
    bad, third = made.enter(BAD), made.enter(THIRD)
    made.write(f'{made.original}\n[policy]\ndeny_lists = ["deny.txt"]\n')
    answer = made.reload()
    expect({row["cause"] for row in answer["closed"]}, {"deny-listed"}, "closed")
    expect(bad.end()[0], "policy-violation", "the error")
    made.lives(third, THIRD, "a name does not include its subdomains")
    condition, text = made.refusal_of(BAD)
    expect(condition, "policy-violation", "a new stream")
    check("deny.txt" not in text, text)
    rows = {row["cause"]: row["detail"] for row in made.at.gateway.asked("refusals", BAD)}
    check("deny.txt" in rows.get("deny-listed", ""), f"recorded: {rows}")
    made.write(f'{made.original}\n[policy]\ndeny_lists = ["deny.txt"]\n[peers."{BAD}"]\nallow = true\n')
    made.reload()
    made.enter(BAD).close()
    third.close()


@_scenario("a deny list by HTTPS is fetched, kept over a restart without its server, and never replaced by invalid data")
def _https(made: Changing) -> None:
    made.web.page(LISTS, f"{LISTED}\n".encode(), PATH)
    listed = made.enter(LISTED)
    made.write(f'{made.original}\n[policy]\ndeny_lists = ["https://{LISTS}{PATH}"]\n')
    check(made.reload()["ok"], "refused")
    expect(listed.end()[0], "policy-violation", "the error once it was fetched")
    made.web.page(LISTS, b"<html>\ngone\n</html>\n", PATH)
    made.reload()
    _until(lambda: "deny list unreadable" in made.at.gateway.logged(), "the error about invalid data")
    expect(made.refusal_of(LISTED)[0], "policy-violation", "with invalid data at the URL")
    made.web.pages.clear()
    made.at.restart()
    expect(made.refusal_of(LISTED)[0], "policy-violation", "after a restart without the list's server")
    made.web.page(LISTS, b"# nobody\n", PATH)
    made.reload()
    _until(lambda: made.refusal_of(LISTED)[0] == "", "the empty list")


@_scenario("allow_only_listed: only peers that an object names")
def _only(made: Changing) -> None:
    good, third = made.enter(GOOD), made.enter(THIRD)
    made.write(f'{made.original}\n[policy]\nallow_only_listed = true\n[peers."{GOOD}"]\n')
    check(made.reload()["ok"], "refused")
    expect(third.end()[0], "policy-violation", "a peer that no object names")
    made.lives(good, GOOD, "a peer that an object names")
    expect(made.refusal_of(THIRD)[0], "policy-violation", "a new stream")
    good.close()
