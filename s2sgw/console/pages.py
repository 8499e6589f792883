"""The pages: their contents, the verbs they ask, and the changes of their forms. Lists are shown a page at a time.

In a cluster the verbs ask all nodes, and each row has its node. What a node has not given is told above the page.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import unquote, urlencode

from twisted.internet.defer import Deferred, maybeDeferred

from s2sgw.admin.node_verbs import SILENT
from s2sgw.admin.protocol import MissingRow
from s2sgw.admin.server import BY, Rows, Verb, VerbError, called
from s2sgw.admin.verbs import MOST
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
    #: the nodes of a cluster that gave no answer to a question of this page. They are not asked again for it.
    silent: set[str]

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
        status = await self._look(request, "status")
        pending = await self._rows(request, "pending", 0, CHAINS, limit=CHAINS + 1)
        waiting = await self._rows(request, "queue list", 0, FEW, limit=FEW)
        refusals = await self._rows(request, "refusals", 0, FEW, limit=FEW)
        certificates = await self._rows(request, "certs", 0, ROWS)
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
            "waiting": waiting.rows, "refusals": refusals.rows[::-1], "now": self._now(), "gateways": _gateways(status),
            "missing": _missing(status.get("missing", ()), waiting.missing, refusals.missing, certificates.missing),
            "ending": [row for row in certificates.rows if row["left"] is None or row["left"] < ENDING_DAYS * 86400],
        })

    async def peers(self, request: PageRequest) -> Shown:
        """Return the peers, in the order of their names."""
        wanted, first = request.field("q").lower(), (request.page - 1) * ROWS
        limit = MOST if wanted else min(first + ROWS + 1, MOST)
        found = await self._rows(request, "peers", first, ROWS, lambda row: wanted in row["peer"].lower(), limit=limit)
        return Shown("peers.html", {
            "rows": found.rows, "q": request.field("q"), "now": self._now(), "pager": _pager(request, found.more),
            "missing": found.missing,
        })

    async def peer(self, request: PageRequest) -> Shown:
        """Return everything about one peer. `?look_up=1` asks the DNS and decides anew."""
        if len(request.below) != 1:
            raise NoSuchPage
        peer = _domain(request.below[0])
        look_up = request.field("look_up") == "1"
        asked: dict[str, Any] = {"peer": peer.ascii, "limit": ROWS}
        found = {verb: await self._rows(request, verb, 0, ROWS, **asked) for verb in ("peers", "streams", "lanes", "pending")}
        found["keys"] = await self._rows(request, "pins list", 0, ROWS, peer=peer.ascii)
        found["refusals"] = await self._rows(request, "refusals", 0, FEW, peer=peer.ascii, limit=FEW, letter=True)
        found["waiting"] = await self._rows(request, "queue list", 0, 1, peer=peer.ascii)
        rows = {name: some.rows for name, some in found.items()}
        missing = _missing(*(some.missing for some in found.values()))
        denied = [name for name in await self._ask("deny list") if _covers(name, peer.ascii)]
        here: dict[str, Any] = {"here": True} if missing else {}  # the home of the peer decides, unless it may be the silent one
        try:
            policy = await self._ask("explain", peer=peer.ascii, look_up=look_up, **here)
        except VerbError as error:
            policy = None if error.kind == "failed" else _no_page(error)
        return Shown("peer.html", {
            **rows, "peer": str(peer), "name": peer.ascii, "look_up": look_up, "missing": missing,
            "disabled": sorted({name for row in rows["peers"] for name in row["disabled"]}),
            "waiting": rows["waiting"][0] if rows["waiting"] else None, "refusals": rows["refusals"][::-1],
            "policy": policy, "now": self._now(), "denied": denied,
            "own_keys": [] if policy is None else [key for key in policy["keys"] if not key["default"]],
        })

    async def queue(self, request: PageRequest) -> Shown:
        """Return the waiting stanzas by peer, most first."""
        first, last = (request.page - 1) * ROWS, request.page * ROWS
        found = await self._rows(request, "queue list", first, ROWS, limit=min(last + 1, MOST))
        return Shown("queue.html", {"rows": found.rows, "pager": _pager(request, found.more), "missing": found.missing})

    async def stanzas(self, request: PageRequest) -> Shown:
        """Return the stanzas of one peer or lane, without their texts."""
        target = _target(request)
        found = await self._rows(request, "queue show", 0, ROWS, target=target, limit=ROWS)
        return Shown("stanzas.html", {
            "target": target, "rows": found.rows, "more": found.number == ROWS, "missing": found.missing,
        })

    async def refusals(self, request: PageRequest) -> Shown:
        """Return refused connections and deliveries, newest first."""
        first, last = (request.page - 1) * REFUSALS, request.page * REFUSALS
        text = request.field("peer")
        more: dict[str, Any] = {"peer": _domain(text).ascii} if text else {}
        found = await self._rows(request, "refusals", 0, last + 1, limit=min(last + 1, MOST), **more)
        rows = found.rows[::-1]
        return Shown("refusals.html", {
            "rows": rows[first:last], "peer": text, "pager": _pager(request, len(rows) > last), "missing": found.missing,
        })

    async def approvals(self, request: PageRequest) -> Shown:
        """Return the waiting certificates with their chains, the newest first."""
        first, last = (request.page - 1) * CHAINS, request.page * CHAINS
        text = request.field("peer")
        more: dict[str, Any] = {"peer": _domain(text).ascii} if text else {}
        found = await self._rows(request, "pending", 0, last + 1, limit=last + 1, **more)
        rows = found.rows[::-1]
        return Shown("approvals.html", {
            "rows": rows[first:last], "peer": text, "now": self._now(), "pager": _pager(request, len(rows) > last),
        })

    async def certificates(self, request: PageRequest) -> Shown:
        """Return the certificate for each of our domains."""
        found = await self._rows(request, "certs", (request.page - 1) * ROWS, ROWS)
        return Shown("certificates.html", {
            "rows": found.rows, "pager": _pager(request, found.more), "ending_days": ENDING_DAYS, "missing": found.missing,
        })

    async def live(self, request: PageRequest) -> Shown:
        """Return the page of events as they happen."""
        text = request.field("peer")
        return Shown("live.html", {"peer": _domain(text).ascii if text else ""})

    async def probes(self, request: PageRequest) -> Shown:
        """Return the forms that begin a probe or a check, and the last runs."""
        status = await self._ask("status", here=True)
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
        """Return the answer of a verb, on behalf of a user."""
        by = {} if user is None else {BY: user.by}
        return maybeDeferred(called, self._verbs[verb], {**arguments, **by})

    def _look(self, request: PageRequest, verb: str, **arguments: Any) -> Deferred[Any]:
        """Return the answer of a verb for a page. In a cluster, a node that gave no answer to this page is not asked again."""
        return self._ask(verb, **{**arguments, SILENT: request.silent})

    async def _rows(
        self, request: PageRequest, verb: str, skip: int, number: int, wanted: Callable[[Any], bool] = lambda row: True,
        **arguments: Any,
    ) -> _Some:
        """Return some rows of a verb's answer, which are made in slices. In a cluster they are those of all nodes."""
        answer = await self._look(request, verb, **arguments)
        missing = [] if isinstance(answer, Rows) else [row for row in answer if "missing" in row]
        return await self._slices.run(_some(answer, skip, number, wanted, missing))


@dataclass(frozen=True, slots=True)
class _Some:
    """Some rows of a list, and whether there are more. `missing`: what nodes have not given."""

    rows: list[Any]
    more: bool
    missing: list[MissingRow]

    @property
    def number(self) -> int:
        return len(self.rows)


def _some(
    answer: Any, skip: int, number: int, wanted: Callable[[Any], bool], missing: list[MissingRow],
) -> SlicedWork[_Some]:
    rows: list[Any] = []
    for row in answer.steps() if isinstance(answer, Rows) else answer:
        if row is not None and row not in missing and wanted(row):
            if skip:
                skip -= 1
            elif len(rows) == number:
                return _Some(rows, True, missing)
            else:
                rows.append(row)
        yield None
    return _Some(rows, False, missing)


def _missing(*parts: Iterable[MissingRow]) -> list[MissingRow]:
    """Return why each node is not shown, or not in full: once for each node."""
    return list({row["node"]: row for part in parts for row in part}.values())


def _gateways(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the numbers of this gateway, or of each node of a cluster, this one first."""
    return [_numbers(each) for each in (status, *status.get("nodes", ()))]


def _numbers(status: Mapping[str, Any]) -> dict[str, Any]:
    streams = {"federation": 0, "backend": 0}
    for row in status["streams"]:
        streams[row["leg"]] += row["number"]
    return {
        **streams, "node": status.get("node"), "uptime": status["uptime"], "stanzas": status["waiting"]["stanzas"],
        "oldest": status["waiting"]["oldest"], "refusals": status["refusals"], "alerts": status["alerts"],
    }


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

