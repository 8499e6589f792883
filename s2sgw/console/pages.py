"""The pages: their contents, the verbs they ask, and the changes of their forms. Lists are shown a page at a time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import unquote, urlencode

from twisted.internet.defer import Deferred, maybeDeferred

from s2sgw.admin.server import BY, Rows, Verb, VerbError, called
from s2sgw.admin.verb_table import TABLE
from s2sgw.console.access import LoggedInUser
from s2sgw.console.charts import chart
from s2sgw.console.history import History
from s2sgw.console.probes import ProbeRun, ProbeRuns
from s2sgw.console.rendering import plural
from s2sgw.net.slices import SlicedWork, Slices
from s2sgw.policy.values import parse_duration
from s2sgw.xmpp.jid import Domain, InvalidJID

#: Rows of one page; refusals; certificates with their chains; pages of a list that can be opened.
ROWS = 50
REFUSALS = 25
CHAINS = 10
MOST_PAGES = 2000
#: Refusals that are shown on the overview and on a peer's page.
FEW = 5
#: Local domains that are offered for a probe.
LOCAL = 200
#: Days before the expiry of a certificate from which on it is marked.
ENDING_DAYS = 21


class NoSuchPage(Exception):
    """There is no page under this path."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A template and its values."""

    template: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FormResult:
    """The result of a form, in words, and the next page."""

    text: str
    path: str


@dataclass(frozen=True, slots=True)
class PageRequest:
    """The request of a page: the path below its own, the query or the form, and the user."""

    below: tuple[str, ...]
    fields: Mapping[str, str]
    user: LoggedInUser

    def field(self, name: str) -> str:
        """Return a field without spaces around it; "" if it is not there."""
        return self.fields.get(name, "").strip()

    @property
    def page(self) -> int:
        """Return the number of the page, from 1."""
        text = self.field("page")
        return min(max(int(text), 1), MOST_PAGES) if text.isascii() and text.isdigit() and len(text) < 6 else 1


Show = Callable[[PageRequest], Coroutine[Any, Any, Shown]]
Act = Callable[[PageRequest], Coroutine[Any, Any, FormResult]]


class Pages:
    """Makes the pages from the answers of verbs."""

    def __init__(
        self, verbs: Mapping[str, Verb], slices: Slices, history: History, now: Callable[[], float], runs: ProbeRuns,
    ) -> None:
        self._verbs = verbs
        self._slices = slices
        self._history = history
        self._now = now
        self._runs = runs

    # --- reading ---

    async def overview(self, request: PageRequest) -> Shown:
        """Return the overview of the gateway."""
        status = await self._ask("status")
        pending = await self._rows("pending", 0, CHAINS, limit=CHAINS + 1)
        waiting = await self._ask("queue list", limit=FEW)
        refusals = await self._rows("refusals", 0, FEW, limit=FEW)
        certificates = await self._rows("certs", 0, ROWS)
        ages = self._history.ages()
        charts = (
            chart("Stanzas per second", "per second", ages, (
                ("to your server", "inbound", lambda sample: sample.inbound),
                ("to peers", "outbound", lambda sample: sample.outbound),
            )),
            chart("Stanzas waiting", "waiting", ages, (("waiting", "waiting", lambda sample: sample.waiting),)),
        )
        return Shown("overview.html", {
            "status": status, "charts": charts, "pending": pending.number, "more_pending": pending.more,
            "waiting": waiting, "refusals": refusals.rows[::-1], "now": self._now(), "streams": _streams_by_leg(status),
            "ending": [row for row in certificates.rows if row["left"] is None or row["left"] < ENDING_DAYS * 86400],
        })

    async def peers(self, request: PageRequest) -> Shown:
        """Return the peers, in the order of their names."""
        wanted = request.field("q").lower()
        found = await self._rows(
            "peers", (request.page - 1) * ROWS, ROWS, lambda row: wanted in row["peer"].lower(), limit=100_000,
        )
        return Shown("peers.html", {
            "rows": found.rows, "q": request.field("q"), "now": self._now(), "pager": _pager(request, found.more),
        })

    async def peer(self, request: PageRequest) -> Shown:
        """Return everything about one peer. `?look_up=1` asks the DNS and decides anew."""
        if len(request.below) != 1:
            raise NoSuchPage
        peer = _domain(request.below[0])
        look_up = request.field("look_up") == "1"
        asked: dict[str, Any] = {"peer": peer.ascii, "limit": ROWS}
        rows = {verb: (await self._rows(verb, 0, ROWS, **asked)).rows for verb in ("peers", "streams", "lanes", "pending")}
        rows["keys"] = (await self._rows("pins list", 0, ROWS, peer=peer.ascii)).rows
        rows["refusals"] = (await self._rows("refusals", 0, FEW, peer=peer.ascii, limit=FEW, letter=True)).rows[::-1]
        waiting = await self._ask("queue list", peer=peer.ascii)
        denied = [name for name in await self._ask("deny list") if _covers(name, peer.ascii)]
        try:
            policy = await self._ask("explain", peer=peer.ascii, look_up=look_up)
        except VerbError as error:
            policy = None if error.kind == "failed" else _no_page(error)
        return Shown("peer.html", {
            "peer": str(peer), "name": peer.ascii, "look_up": look_up, "summary": rows["peers"][0] if rows["peers"] else None,
            "waiting": waiting[0] if waiting else None, "policy": policy, "now": self._now(), "denied": denied,
            "own_keys": [] if policy is None else [key for key in policy["keys"] if not key["default"]], **rows,
        })

    async def queue(self, request: PageRequest) -> Shown:
        """Return the waiting stanzas by peer, most first."""
        first, last = (request.page - 1) * ROWS, request.page * ROWS
        rows = await self._ask("queue list", limit=min(last + 1, 100_000))
        return Shown("queue.html", {"rows": rows[first:last], "pager": _pager(request, len(rows) > last)})

    async def stanzas(self, request: PageRequest) -> Shown:
        """Return the stanzas of one peer or lane, without their texts."""
        target = _target(request)
        rows = await self._ask("queue show", target=target, limit=ROWS)
        return Shown("stanzas.html", {"target": target, "rows": rows, "more": len(rows) == ROWS})

    async def refusals(self, request: PageRequest) -> Shown:
        """Return refused connections and deliveries, newest first."""
        first, last = (request.page - 1) * REFUSALS, request.page * REFUSALS
        text = request.field("peer")
        more: dict[str, Any] = {"peer": _domain(text).ascii} if text else {}
        found = await self._rows("refusals", 0, last + 1, limit=min(last + 1, 100_000), **more)
        rows = found.rows[::-1]
        return Shown("refusals.html", {"rows": rows[first:last], "peer": text, "pager": _pager(request, len(rows) > last)})

    async def approvals(self, request: PageRequest) -> Shown:
        """Return the waiting certificates with their chains, the newest first."""
        first, last = (request.page - 1) * CHAINS, request.page * CHAINS
        text = request.field("peer")
        more: dict[str, Any] = {"peer": _domain(text).ascii} if text else {}
        found = await self._rows("pending", 0, last + 1, limit=last + 1, **more)
        rows = found.rows[::-1]
        return Shown("approvals.html", {
            "rows": rows[first:last], "peer": text, "now": self._now(), "pager": _pager(request, len(rows) > last),
        })

    async def certificates(self, request: PageRequest) -> Shown:
        """Return the certificate for each of our domains."""
        found = await self._rows("certs", (request.page - 1) * ROWS, ROWS)
        return Shown("certificates.html", {
            "rows": found.rows, "pager": _pager(request, found.more), "ending_days": ENDING_DAYS,
        })

    async def live(self, request: PageRequest) -> Shown:
        """Return the page of events as they happen."""
        text = request.field("peer")
        return Shown("live.html", {"peer": _domain(text).ascii if text else ""})

    async def probes(self, request: PageRequest) -> Shown:
        """Return the forms that begin a probe or a check, and the last runs."""
        status = await self._ask("status")
        runs = [(run, self._runs.seconds(run)) for run in self._runs.last()]
        return Shown("probes.html", {"domains": status["domains"][:LOCAL], "domain": request.field("domain"), "runs": runs})

    async def probe(self, request: PageRequest) -> Shown:
        """Return the result of one probe or check. While it runs, the page reloads itself."""
        run = self._runs.find(request.below[0]) if len(request.below) == 1 else None
        if run is None:
            raise NoSuchPage
        steps = [] if run.answer is None or run.kind == "check" else run.answer["steps"]
        targets = [(target, list(group)) for target, group in groupby(steps, lambda step: step["target"])]
        return Shown("probe.html", {"run": run, "seconds": self._runs.seconds(run), "targets": targets})

    # --- changing ---

    async def begin_probe(self, request: PageRequest) -> FormResult:
        """Begin a probe of a domain."""
        domain, more = request.field("domain"), dict[str, Any]()
        if request.field("local"):
            more["local"] = request.field("local")
        if request.field("inbound") == "1":
            more["inbound"] = True
        asked = self._ask("probe", user=request.user, domain=domain, **more)
        return self._begun(self._runs.begin("probe", domain, request.user.name, asked))

    async def begin_check(self, request: PageRequest) -> FormResult:
        """Begin a check of what works now."""
        asked = self._ask("check live", user=request.user)
        return self._begun(self._runs.begin("check", "", request.user.name, asked))

    def _begun(self, run: ProbeRun) -> FormResult:
        return FormResult("", f"/probe/{run.number}")

    async def close(self, request: PageRequest) -> FormResult:
        """Close the streams with a peer."""
        answer = await self._ask("close", user=request.user, peer=request.field("peer"))
        return FormResult(f"{plural(answer['closed'], 'connection')} with {answer['peer']} closed.", _back(request, "/peers"))

    async def deny(self, request: PageRequest) -> FormResult:
        """Deny a peer, or undo that."""
        undo = request.field("undo") == "1"
        answer = await self._ask("deny", user=request.user, peer=request.field("peer"), undo=undo)
        text = f"{answer['peer']} is {'denied no longer' if undo else 'denied'}"
        closed = f"; {plural(len(answer['closed']), 'connection')} closed" if answer["closed"] else ""
        return FormResult(f"{text}{closed}.", _back(request, "/peers"))

    async def forget(self, request: PageRequest) -> FormResult:
        """Forget what is remembered of a peer."""
        answer = await self._ask(
            "forget", user=request.user, peer=request.field("peer"), keys=request.field("keys") == "1",
        )
        numbers = (("keys", "key"), ("pending", "pending certificate"), ("refusals", "refusal"))
        parts = ["how it was verified"] if answer["proofs"] else []
        parts += [plural(answer[name], word) for name, word in numbers if answer[name]]
        return FormResult(f"Forgotten of {answer['peer']}: {', '.join(parts) or 'nothing'}.", _back(request, "/peers"))

    async def change_queue(self, request: PageRequest) -> FormResult:
        """Hold, release, flush or drop waiting stanzas."""
        action = request.field("action")
        done = {"hold": "held", "release": "released", "flush": "tried again", "drop": "returned to the senders"}.get(action)
        if done is None:
            raise VerbError("there is no such action", "usage")
        target = _target(request)
        answer = await self._ask(f"queue {action}", user=request.user, target=target)
        text = f"{' → '.join(target)}: {plural(answer['stanzas'], 'stanza')} {done}."
        return FormResult(text, _back(request, "/queue"))

    async def approve(self, request: PageRequest) -> FormResult:
        """Approve a waiting certificate."""
        more: dict[str, Any] = {"note": request.field("note")} if request.field("note") else {}
        if request.field("lasts"):
            more["lasts"] = _seconds(request.field("lasts"))
        if request.field("replace") == "1":
            more["replace"] = True
        answer = await self._ask("pins approve", user=request.user, peer=request.field("peer"), key=request.field("key"), **more)
        text = f"The key of {answer['peer']} is approved."
        if not answer["counts"]:
            text += " It does not count yet: the policy of this peer accepts no approved keys."
        return FormResult(text, _back(request, "/approvals"))

    async def revoke(self, request: PageRequest) -> FormResult:
        """Revoke a key."""
        forget = request.field("forget") == "1"
        answer = await self._ask(
            "pins revoke", user=request.user, peer=request.field("peer"), key=request.field("key"), forget=forget,
        )
        text = f"The key is {'forgotten' if forget else 'revoked'}; {plural(answer['closed'], 'connection')} closed."
        return FormResult(text, _back(request, "/peers"))

    async def reload(self, request: PageRequest) -> FormResult:
        """Read the configuration again."""
        answer = await self._ask("reload", user=request.user)
        if not answer["ok"]:
            raise VerbError("The configuration was not reloaded: " + "; ".join(answer["complaints"][:FEW]))
        number = len(answer["changes"]) + answer["more_changes"]
        return FormResult(f"The configuration is reloaded: {plural(number, 'change')}.", "/")

    # --- asking ---

    def _ask(self, verb: str, user: LoggedInUser | None = None, **arguments: Any) -> Deferred[Any]:
        """Return the answer of a verb, on behalf of a user. The pages show this node of a cluster alone."""
        by = {} if user is None else {BY: user.by}
        here = {"here": True} if verb in TABLE and any(each.name == "here" for each in TABLE[verb].parameters) else {}
        return maybeDeferred(called, self._verbs[verb], {**arguments, **here, **by})

    async def _rows(
        self, verb: str, skip: int, number: int, wanted: Callable[[Any], bool] = lambda row: True, **arguments: Any,
    ) -> _Some:
        """Return some rows of a verb's answer, which are made in slices."""
        return await self._slices.run(_some(await self._ask(verb, **arguments), skip, number, wanted))


@dataclass(frozen=True, slots=True)
class _Some:
    """Some rows of a list, and whether there are more."""

    rows: list[Any]
    more: bool

    @property
    def number(self) -> int:
        return len(self.rows)


def _some(answer: Any, skip: int, number: int, wanted: Callable[[Any], bool]) -> SlicedWork[_Some]:
    rows: list[Any] = []
    for row in answer.steps() if isinstance(answer, Rows) else answer:
        if row is not None and wanted(row):
            if skip:
                skip -= 1
            elif len(rows) == number:
                return _Some(rows, True)
            else:
                rows.append(row)
        yield None
    return _Some(rows, False)


def _streams_by_leg(status: Mapping[str, Any]) -> dict[str, int]:
    found = {"federation": 0, "backend": 0}
    for row in status["streams"]:
        found[row["leg"]] += row["number"]
    return found


def _pager(request: PageRequest, more: bool) -> dict[str, Any]:
    """Return the number of the page, and the queries of the pages before and after it."""
    rest = {name: value for name, value in request.fields.items() if name != "page" and value}
    page = request.page
    return {
        "page": page,
        "before": f"?{urlencode({**rest, 'page': page - 1})}" if page > 1 else "",
        "after": f"?{urlencode({**rest, 'page': page + 1})}" if more and page < MOST_PAGES else "",
    }


def _domain(text: str) -> Domain:
    """Return the domain in a path or a field. Raises `NoSuchPage`."""
    try:
        return Domain.parse(unquote(text))
    except (InvalidJID, ValueError):
        raise NoSuchPage from None


def _covers(name: str, peer: str) -> bool:
    """Return whether a name of `deny list` denies a peer."""
    return name == peer or (name.startswith("*.") and peer.endswith(name[1:]))


def _target(request: PageRequest) -> list[str]:
    """Return the peer, or the lane, in a form or a query."""
    sender, recipient = request.field("from"), request.field("to")
    return [sender, recipient] if recipient else [request.field("peer") or sender]


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise VerbError(f"valid for: {error}", "usage") from None


def _back(request: PageRequest, otherwise: str) -> str:
    """Return the next page that a form names, if it is one of ours, or `otherwise`."""
    path = request.field("back")
    return path if path in ("/queue", "/approvals", "/") or path.startswith("/peers/") else otherwise


def _no_page(error: VerbError) -> Any:
    raise NoSuchPage from error

