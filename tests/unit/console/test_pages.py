"""Tests of the pages: their content, the changes by their forms, and the paging of long lists."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from s2sgw.admin.node_verbs import ClusterVerbs, NodeSilent
from s2sgw.admin.server import Arguments, VerbError
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza
from tests.support.console import ConsoleCase
from tests.unit.admin.test_node_verbs import FakeNodes, home_of

PAIR = Pair(Domain.parse("example.org"), Domain.parse("peer.example"))


class PageCase(ConsoleCase):
    """Base class in which alice is logged in."""

    def setUp(self) -> None:
        super().setUp()
        self.log_in()

    def page(self, path: str) -> str:
        response = self.client.get(path)
        self.assertEqual(200, response.status, response.text)
        return response.text

    def refuse(self, peer: str = "peer.example", number: int = 1, detail: str = "why", cause: Cause = Cause.UNKNOWN_ISSUER) -> None:
        for _ in range(number):
            self.gateway.record.refused("inbound", "federation", (peer, "example.org"), "192.0.2.1:5", Ending(cause, detail), ("reason",))

    def wait(self, number: int = 3) -> None:
        """Let stanzas wait for the peer."""
        queue = self.gateway.custody.queues.queue(PAIR)
        queue.hold()
        queue.accept([Stanza("message", b"<message>secret text</message>", "u@peer.example", "u@example.org", None, str(n)) for n in range(number)])

    def change(self, page: str, action: str, /, **fields: str) -> str:
        """Send a form of a page; return the text of the page that follows."""
        response = self.submit(action, **{**self.form(page, action), **fields})
        self.assertEqual(303, response.status, response.text)
        return self.page(response.headers["location"])


class OverviewTests(PageCase):
    def test_overview(self) -> None:
        """The page has numbers, what needs attention, and the last hour."""
        self.refuse()
        self.hold_certificate()
        text = self.page("/")
        for words in ("example.org", "1 certificate waits for approval", "unknown-issuer", "peer.example", "Stanzas per second", "first numbers come"):
            self.assertIn(words, text)

    def test_closed_listeners(self) -> None:
        """The page tells which listeners are closed, and why."""
        self.assertNotIn(": closed", self.page("/"))
        self.gateway.views.why_closed = lambda purpose: "no lease"
        self.assertIn(": closed, no lease", self.page("/"))

    def test_charts(self) -> None:
        """With samples there are charts."""
        self.sample()
        self.reactor.advance(10)
        self.sample()
        self.assertIn("<polyline", self.page("/"))

    def sample(self) -> None:
        sampled: Any = Deferred.fromCoroutine(self.console.sample())  # type: ignore[arg-type]
        self.reactor.advance(0)
        self.successResultOf(sampled)

    def test_reload(self) -> None:
        """The configuration is reloaded. Its errors are shown, and then nothing changes."""
        self.assertIn("reloaded: 0 changes", self.change("/", "/reload"))
        self.path.write_text("[nonsense]\n")
        response = self.submit("/reload", **self.form("/", "/reload"))
        self.assertEqual(409, response.status)
        self.assertIn("nonsense", response.text)
        self.assertEqual("console: alice", self.noted()[-1]["by"])

    def test_certificate_ends(self) -> None:
        """A certificate of ours that expires soon is shown on the first page."""
        verbs: Any = self.gateway.verbs
        row = {"domain": "example.org", "name": "ours", "names": ["dNSName example.org"], "expires": 1.0, "left": 86400.0 * 3, "fingerprint": "ab"}
        for left, words in ((86400.0 * 3, "ends in 3 d"), (-5.0, "has expired"), (None, "no certificate for")):
            verbs["certs"] = lambda _, left=left: [{**row, "left": left}]
            self.assertIn(words, self.page("/"))
            self.assertEqual(200, self.client.get("/certificates").status)


class PeerTests(PageCase):
    def test_list(self) -> None:
        """Peers are listed by name, and found by a part of it. A claimed name that is not a domain is text without a link."""
        for peer in ("b.example", "a.example", '<script>"x', "c.example"):
            self.refuse(peer)
        text = self.page("/peers")
        self.assertLess(text.index("/peers/a.example"), text.index("/peers/b.example"))
        self.assertIn("&lt;script&gt;&#34;x", text)
        self.assertNotIn('<script>"', text)
        found = self.page("/peers?q=B.EX")
        self.assertIn("/peers/b.example", found)
        self.assertNotIn("/peers/a.example", found)
        self.assertIn("&lt;b&gt;", self.page("/peers?q=%3Cb%3E"))

    def test_many(self) -> None:
        """A long list is shown page by page, with links to the pages before and after. An invalid page number is the first page."""
        for number in range(120):
            self.refuse(f"peer{number:04}.example")
        first, last = self.page("/peers"), self.page("/peers?page=3")
        self.assertEqual((50, 20), (first.count('class="name" href="/peers/peer'), last.count('class="name" href="/peers/peer')))
        self.assertIn("peer0100.example", last)
        self.assertIn('href="?page=2"', first)
        self.assertNotIn("Next", last)
        for page in ("0", "-1", "x", "1e9", "%D9%A3", "999999999"):
            self.assertIn("Page 1", self.page(f"/peers?page={page}"))
        self.assertEqual(200, self.client.get("/peers?page=2000").status)

    def test_peer(self) -> None:
        """The page of a peer has its policy with line numbers, refusals with the letter, keys, and waiting stanzas."""
        self.refuse(detail="<b>detail</b>")
        self.hold_certificate()
        self.wait()
        text = self.page("/peers/PEER.example")
        for words in (
            "A certificate of this peer waits", "3 stanzas", "unknown_issuer", "peers.default", "line ", "&lt;b&gt;detail", "Text for their administrator",
            "To the administrator of peer.example", "Try now", "No key of this peer",
        ):
            self.assertIn(words, text)
        self.assertNotIn("<b>detail", text)

    def test_unknown(self) -> None:
        """An unknown peer has its policy. A name that is not a domain has no page."""
        self.assertIn("Not met yet", self.page("/peers/never.example"))
        for path in ("/peers/a%20b", "/peers/%3Cscript%3E", "/peers/a/b", "/peers/%ff", "/peers/..%2f..%2fetc"):
            self.assertEqual(404, self.client.get(path).status, path)

    def test_shared_secret(self) -> None:
        """A peer that proves itself by the shared secret is not said to do so by dialback."""
        verbs: Any = self.gateway.verbs
        explain = verbs["explain"]
        secret = {"accepted": True, "proven_by": None, "external": False, "dialback": False, "cause": None}
        last = {"at": 0.0, "address": "192.0.2.1:5", "tls": "TLSv1.3", "then": secret, "certificate": None}

        async def answer(arguments: Any) -> Any:
            return {**await explain(arguments), "now": {"inbound": {"if_not": secret, "last": last}, "outbound": {"if_proven": secret, "if_not": secret, "last": None}}}

        verbs["explain"] = answer
        text = self.page("/peers/peer.example")
        self.assertIn("by the shared secret</p>", text)
        self.assertIn("accepted by the shared secret", text)
        self.assertNotIn("by dialback", text)

    def test_look_up(self) -> None:
        """With look-ups the DNS is shown too."""
        self.assertIn("127.0.0.1", self.page("/peers/peer.example?look_up=1"))
        self.assertNotIn("<h3>DNS", self.page("/peers/peer.example"))

    def test_records_unreadable(self) -> None:
        """If records cannot be read, the page shows the rest."""
        def broken(_: object) -> None:
            raise VerbError("the handshakes on record cannot be read")

        verbs: Any = self.gateway.verbs
        verbs["explain"] = broken
        self.assertIn("cannot be read now", self.page("/peers/peer.example"))


class ActionTests(PageCase):
    """Tests of an operator's actions for a peer on its page."""

    PAGE = "/peers/peer.example"

    def test_close(self) -> None:
        """Its connections are closed after a confirmation on the page."""
        text = self.page(self.PAGE)
        self.assertIn("Both sides may open new ones at once", text)
        self.assertIn("0 connections with peer.example closed.", self.change(self.PAGE, "/peer/close"))
        self.assertEqual(("close", "console: alice"), (self.noted()[-1]["action"], self.noted()[-1]["by"]))

    def test_deny(self) -> None:
        """The peer is denied, the page says so, and the same page can undo it."""
        text = self.change(self.PAGE, "/peer/deny")
        for words in ("peer.example is denied.", "This peer is denied, by hand.", "The policy refuses this peer", "no longer"):
            self.assertIn(words, text)
        self.assertNotIn("Deny…", text)
        self.assertEqual(["peer.example"], self.gateway.verbs["deny list"]({}))
        text = self.change(self.PAGE, "/peer/deny")
        self.assertIn("peer.example is denied no longer.", text)
        self.assertEqual([], self.gateway.verbs["deny list"]({}))
        self.assertEqual(["deny", "deny undone"], [row["action"] for row in self.noted()[-2:]])

    def test_denied_by_a_wider_name(self) -> None:
        """A peer below a denied name is shown as denied, and that name can be removed. Others are not affected."""
        self.submit("/peer/deny", **{**self.form(self.PAGE, "/peer/deny"), "peer": "*.example"})
        self.assertIn("denied by <code>*.example</code>", self.page(self.PAGE))
        self.assertNotIn("is denied", self.page("/peers/other.test"))
        text = self.page(self.PAGE)
        self.assertIn('name="peer" value="*.example"', text)

    def test_forget(self) -> None:
        """The data of the peer is removed; approved keys only on request."""
        self.hold_certificate()
        self.change("/approvals", "/approvals/approve")
        self.refuse()
        self.assertIn("Forgotten of peer.example: 1 refusal.", self.change(self.PAGE, "/peer/forget"))
        self.assertEqual(1, len(list(self.gateway.verbs["pins list"]({}))))
        self.assertIn("Forgotten of peer.example: 1 key.", self.change(self.PAGE, "/peer/forget", keys="1"))
        self.assertIn("Forgotten of peer.example: nothing.", self.change(self.PAGE, "/peer/forget"))

    def test_bad_forms(self) -> None:
        """A local domain and a text that is not a domain are refused with a text. Nothing is done by GET, or without the form's secret."""
        form = self.form(self.PAGE, "/peer/close")
        for path in ("/peer/close", "/peer/deny", "/peer/forget"):
            for peer in ("example.org", "a b", ""):
                self.assertEqual(400, self.submit(path, **{**form, "peer": peer}).status, (path, peer))
            self.assertEqual(403, self.submit(path, **{**form, "csrf": "x"}).status)
            self.assertEqual(403, self.submit(path, origin="http://evil.example", **form).status)
            self.assertEqual(405, self.client.get(path).status)
        for path in ("/peer", "/peer/", "/peer/other"):
            self.assertEqual(404, self.client.get(path).status)
        self.assertEqual(1, len(self.noted()))

    def test_read_only(self) -> None:
        """A read-only user has neither the buttons nor the permission."""
        self.change(self.PAGE, "/peer/deny")
        self.log_in("bob", self.client)
        text = self.page(self.PAGE)
        self.assertIn("This peer is denied", text)
        csrf = self.form(self.PAGE, "/logout")
        for path in ("/peer/close", "/peer/deny", "/peer/forget", "/probe/run", "/probe/check"):
            self.assertNotIn(f'action="{path}"', text)
            self.assertEqual(403, self.submit(path, **csrf, peer="peer.example", domain="peer.example", undo="1").status)
        self.assertEqual(["peer.example"], self.gateway.verbs["deny list"]({}))


class ProbeTests(PageCase):
    """Tests of probes and live checks."""

    def setUp(self) -> None:
        super().setUp()
        self.asked: list[Any] = []
        self.waiting: Deferred[Any] = Deferred()
        verbs: Any = self.gateway.verbs

        def verb(arguments: Any) -> Deferred[Any]:
            self.asked.append(dict(arguments))
            return self.waiting

        verbs["probe"] = verbs["check live"] = verb

    def test_probe(self) -> None:
        """While a probe runs the page reloads itself. Then it shows the tree with times, remedies, and the responsible sides."""
        text = self.change("/probe?domain=peer.example", "/probe/run", domain="peer.example", inbound="1")
        self.assertEqual([{"domain": "peer.example", "inbound": True, "by": "console: alice"}], self.asked)
        self.assertIn('http-equiv="refresh"', text)
        self.assertIn("under way", text)
        steps = [
            {"step": "srv", "target": "", "ok": True, "seconds": 0.012, "detail": "<b>no</b> records", "remedy": "", "whose": None},
            {"step": "tcp", "target": "h.example:5269", "ok": True, "seconds": 0.1, "detail": "192.0.2.1", "remedy": "", "whose": None},
            {"step": "certificate", "target": "h.example:5269", "ok": False, "seconds": 0.0, "detail": "\u202eself-signed", "remedy": "Get one", "whose": "theirs"},
            {"step": "dane", "target": "h.example:5269", "ok": None, "seconds": 0.0, "detail": "none", "remedy": "", "whose": None},
        ]
        self.waiting.callback({"version": 1, "domain": "peer.example", "local": "example.org", "steps": steps, "verdict": "fails"})
        text = self.page("/probe/1")
        for words in ("does not federate", "12 ms", "&lt;b&gt;no", "h.example:5269", "failed", "What to do (their administrator):", "Get one", "on behalf of example.org"):
            self.assertIn(words, text)
        for piece in ("http-equiv", "<b>no", "\u202e"):
            self.assertNotIn(piece, text)
        self.assertIn("peer.example", self.page("/probe"))

    def test_check(self) -> None:
        """A check shows each result."""
        self.assertIn("under way", self.change("/probe", "/probe/check"))
        facts = [{"check": "clock", "subject": "<system>", "ok": None, "detail": "unknown", "remedy": "Look"}, {"check": "disk", "subject": "state", "ok": True, "detail": "9 GiB", "remedy": ""}]
        self.waiting.callback({"ok": True, "live": facts})
        text = self.page("/probe/1")
        for words in ("all is well", "&lt;system&gt;", "Look", "9 GiB"):
            self.assertIn(words, text)

    def test_refused(self) -> None:
        """A refusal of the verb is shown as text, and so is a later failure."""
        form = self.form("/probe", "/probe/run")
        self.waiting.errback(VerbError("domain must be a domain name", "usage"))
        self.assertEqual(400, self.submit("/probe/run", **form, domain="a b").status)
        self.waiting = Deferred()
        self.submit("/probe/run", **form, domain="peer.example")
        self.waiting.errback(VerbError("four probes are under way"))
        self.assertIn("four probes are under way", self.page("/probe/1"))

    def test_who(self) -> None:
        """Read-only users have no page of probes and see no results. An unknown result has no page."""
        self.change("/probe", "/probe/check")
        self.assertEqual(404, self.client.get("/probe/2").status)
        self.assertEqual(404, self.client.get("/probe/1/x").status)
        self.assertIn('href="/probe"', self.page("/"))
        self.log_in("bob", self.client)
        self.assertNotIn('href="/probe"', self.page("/"))
        for path in ("/probe", "/probe/1", "/probe/2"):
            self.assertEqual(403, self.client.get(path).status, path)


class QueueTests(PageCase):
    def test_hold_and_release(self) -> None:
        """Waiting stanzas are held and released. Each change is in the audit log with the user's name."""
        self.wait()
        self.assertIn("3 stanzas held", self.change("/queue", "/queue/change", action="hold"))
        self.assertIn("3 stanzas released", self.change("/queue", "/queue/change", action="release"))
        self.assertEqual([("queue hold", "console: alice"), ("queue release", "console: alice")], [(row["action"], row["by"]) for row in self.noted()[1:]])

    def test_drop(self) -> None:
        """Waiting stanzas are returned to their senders."""
        self.wait()
        self.assertIn("3 stanzas returned to the senders", self.change("/queue", "/queue/change", action="drop"))

    def test_bad_forms(self) -> None:
        """Other actions and targets are refused with a text, and nothing is done."""
        self.wait()
        form = self.form("/queue", "/queue/change")
        for fields in ({"action": "explode"}, {"action": ""}, {"action": "hold", "peer": "a b"}, {"action": "hold", "peer": "example.org"}, {"action": "hold", "peer": ""}):
            self.assertEqual(400, self.submit("/queue/change", **{**form, **fields}).status, fields)
        self.assertEqual(1, len(self.noted()))

    def test_stanzas(self) -> None:
        """The stanzas are listed without users' text, also for read-only users."""
        self.wait()
        for user in ("", "bob"):
            if user:
                self.log_in(user, self.client)
            text = self.page("/queue/stanzas?peer=peer.example")
            self.assertIn("message", text)
            self.assertNotIn("secret", text)

    def test_read_only(self) -> None:
        """A read-only user sees no buttons, and its forms have no effect."""
        self.wait()
        form = self.form("/queue", "/queue/change")
        self.log_in("bob", self.client)
        text = self.page("/queue")
        self.assertNotIn("/queue/change", text)
        csrf = self.form("/queue", "/logout")["csrf"]
        for path in ("/queue/change", "/approvals/approve", "/approvals/revoke", "/reload"):
            self.assertEqual(403, self.submit(path, **{**form, "csrf": csrf, "action": "drop"}).status)


class RefusalTests(PageCase):
    def test_newest_first(self) -> None:
        """The newest refusals come first, page by page; those of one peer on request."""
        for number in range(60):
            self.refuse(f"peer{number:02}.example")
        text = self.page("/refusals")
        self.assertLess(text.index("peer59.example"), text.index("peer58.example"))
        self.assertNotIn("peer30.example", text)
        self.assertIn("peer10.example", self.page("/refusals?page=2"))
        self.assertIn("peer05.example", self.page("/refusals?peer=PEER05.example"))
        self.assertEqual(404, self.client.get("/refusals?peer=a%20b").status)
        self.assertIn("was not refused", self.page("/refusals?peer=other.example"))

    def test_hostile(self) -> None:
        """Every text of a refusal is shown as text."""
        self.refuse("</td><script>alert(1)</script>", detail="<img src=x onerror=alert(1)>\u202e")
        text = self.page("/refusals")
        for piece in ("<script>alert", "<img src=x", "\u202e"):
            self.assertNotIn(piece, text)


class ApprovalTests(PageCase):
    def test_approve(self) -> None:
        """A certificate is shown with its chain, and approved with a note and an end. The peer's page then has the key."""
        key = self.hold_certificate()
        text = self.page("/approvals")
        for words in (str(key), "evil", "&lt;i&gt;reason", "Certificate of the server", "itself"):
            self.assertIn(words, text)
        self.assertNotIn("<b>evil", text)
        text = self.change("/approvals", "/approvals/approve", note="by <phone>", lasts="90d")
        self.assertIn("The key of peer.example is approved.", text)
        (row,) = self.gateway.verbs["pins list"]({})
        self.assertEqual((str(key), "by <phone>", 90 * 86400), (row["key"], row["note"], row["expires"] - row["at"]))
        self.assertEqual(("pins approve", "console: alice"), (self.noted()[-1]["action"], self.noted()[-1]["by"]))
        self.assertIn("by &lt;phone&gt;", self.page("/peers/peer.example"))
        self.assertIn("No certificate waits", self.page("/approvals"))

    def test_revoke(self) -> None:
        """An approved key is revoked on the peer's page."""
        self.hold_certificate()
        self.change("/approvals", "/approvals/approve")
        self.assertIn("The key is revoked; 0 connections closed.", self.change("/peers/peer.example", "/approvals/revoke"))
        self.assertEqual(409, self.submit("/approvals/revoke", **{**self.form("/", "/logout"), "peer": "peer.example", "key": "sha256:" + "0" * 64}).status)

    def test_twice(self) -> None:
        """If a certificate was approved meanwhile, the page says so. An invalid end is reported too."""
        self.hold_certificate()
        form = self.form("/approvals", "/approvals/approve")
        self.assertEqual(400, self.submit("/approvals/approve", **form, lasts="soon").status)
        self.assertEqual(303, self.submit("/approvals/approve", **form).status)
        self.assertEqual(409, self.submit("/approvals/approve", **form).status)

    def test_many(self) -> None:
        """A few certificates are shown at a time, the newest first."""
        for number in range(25):
            self.hold_certificate(f"peer{number:02}.example", last=float(number))
        text = self.page("/approvals")
        self.assertEqual(10, text.count("Approve this key"))
        self.assertLess(text.index("peer24.example"), text.index("peer23.example"))
        self.assertEqual(5, self.page("/approvals?page=3").count("Approve this key"))
        self.assertIn("10+ certificates wait", self.page("/"))
        self.assertEqual(1, self.page("/approvals?peer=peer07.example").count("Approve this key"))

    def test_another_key(self) -> None:
        """A peer that had another key is marked, and its old keys can be revoked with the approval."""
        self.hold_certificate()
        self.change("/approvals", "/approvals/approve")
        self.hold_certificate(cause="pin-mismatch")
        self.assertIn("This peer had another key before", self.page("/approvals"))
        self.change("/approvals", "/approvals/approve", replace="1")
        self.assertEqual(1, sum(row["counts"] for row in self.gateway.verbs["pins list"]({})))


class LiveTests(PageCase):
    def test_live(self) -> None:
        """The page names the stream of events that its script reads."""
        self.assertIn('data-events="/events"', self.page("/live"))
        self.assertIn('data-events="/events?peer=peer.example"', self.page("/live?peer=Peer.example"))
        self.assertEqual(404, self.client.get("/live?peer=a%20b").status)


class NodesTests(PageCase):
    """The pages of node a of a cluster. Node b has the same streams, queues and refusals as a; node c gives no answer."""

    def setUp(self) -> None:
        super().setUp()
        self.refuse()
        self.wait()
        self.nodes = FakeNodes()
        self.answers = dict(self.gateway.verbs)
        self.gateway.verbs.update(ClusterVerbs(self.answers, self.nodes, home_of, self.gateway.slices).verbs())
        for verb in ("status", "streams", "lanes", "peers", "refusals", "queue list", "certs"):
            self.nodes.answers["b", verb] = self.own(verb, {"here": True})
            self.nodes.answers["c", verb] = NodeSilent("no answer within 1 s <b>")

    def own(self, verb: str, arguments: Arguments) -> Any:
        """Return what this node alone answers."""
        answer = self.answers[verb](arguments)
        answer = self.got(answer if isinstance(answer, Deferred) else Deferred.fromCoroutine(answer)) if hasattr(answer, "__await__") else answer
        return answer if isinstance(answer, dict) else list(answer)

    def got(self, answer: Deferred[Any]) -> Any:
        self.reactor.pump([0.01] * 20)
        return self.successResultOf(answer)

    def assert_nodes(self, text: str) -> None:
        for node in "ab":
            self.assertIn(f'<td data-label="Node">{node}</td>', text)
        self.assertEqual(1, text.count("Node c is not shown, or not in full: no answer within 1 s &lt;b&gt;."))

    def test_tables(self) -> None:
        """Each row of a table has its node. A node without an answer is told once."""
        for path in ("/peers", "/peers?q=peer", "/queue", "/refusals", "/certificates", "/peers/peer.example"):
            self.assert_nodes(self.page(path))

    def test_silent_node_is_asked_once(self) -> None:
        """A page waits for a node without an answer once, however many questions the page asks."""
        for path in ("/", "/peers/peer.example"):
            self.nodes.asked.clear()
            self.assertIn("Node c is not shown", self.page(path))
            asked = [node for node, _, _ in self.nodes.asked]
            self.assertEqual((1, True), (asked.count("c"), asked.count("b") > 3))

    def test_overview(self) -> None:
        """The overview has the sums of all nodes, a row for each, and their alerts."""
        self.nodes.answers["b", "status"] |= {"alerts": ["the disk is full"]}
        text = self.page("/")
        self.assert_nodes(text)
        self.assertIn("<b>6</b> waiting", text)
        self.assertIn("<b>2</b> refusals", text)
        self.assertIn("Node b: the disk is full", text)
        self.assertIn("Stanzas per second (node a)", text)
        self.assertIn("no answer</span>", text)

    def test_alone(self) -> None:
        """A gateway without a cluster has no column for nodes."""
        self.gateway.verbs.update(self.answers)
        for path in ("/", "/peers", "/queue", "/refusals", "/certificates", "/peers/peer.example"):
            text = self.page(path)
            self.assertNotIn(">Node", text)
            self.assertNotIn("(node", text)

    def test_silent_home(self) -> None:
        """While a node is silent, this one tells what the policy decides: the silent one may be the home."""
        self.assertIn("What the policy decides", self.page("/peers/peer.example"))
        self.assertEqual([], self.nodes.claimed)
        for verb in ("streams", "lanes", "peers", "refusals", "queue list"):
            self.nodes.answers["c", verb] = []
        self.nodes.homes = ["a"]
        self.assertIn("What the policy decides", self.page("/peers/peer.example"))
        self.assertEqual([False], self.nodes.claimed)

    def test_stanzas_of_the_home(self) -> None:
        """The stanzas of a peer are those of its home."""
        self.nodes.homes = ["b"]
        self.nodes.answers["b", "queue show"] = self.own("queue show", {"target": ["peer.example"]})
        text = self.page("/queue/stanzas?peer=peer.example")
        self.assertEqual(3, text.count('<td data-label="Node">b</td>'))

    def test_bounded(self) -> None:
        """A page of a list asks each node for no more rows than it may show. Only a search looks at all."""
        self.page("/peers")
        self.page("/queue?page=3")
        asked = {(verb, arguments.get("limit")) for node, verb, arguments in self.nodes.asked if node == "b"}
        self.assertEqual({("peers", 51), ("queue list", 151)}, asked)
