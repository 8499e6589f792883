"""Tests of the console's port: login, forms, headers, hosts and roles, and refused requests."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher

from s2sgw.admin.http_api import VerbResource
from s2sgw.admin.server import VerbError
from s2sgw.console import sessions
from s2sgw.console.site import HEADERS, PAGE_SECONDS, PageResource, _own_path
from tests.support.console import PASSWORDS, ConsoleCase


class LoginTests(ConsoleCase):
    """Tests of login and logout."""

    def test_log_in(self) -> None:
        """A password opens a session, whose cookie scripts and other sites cannot read. The audit log has an entry."""
        response = self.submit("/login", name="alice", password="correct horse", next="/peers?q=x")
        self.assertEqual((303, "/peers?q=x"), (response.status, response.headers["location"]))
        cookie = response.headers["set-cookie"]
        for part in ("s2sgw=", "HttpOnly", "SameSite=Strict", "Path=/"):
            self.assertIn(part, cookie)
        self.assertNotIn("Domain", cookie)
        self.client.headers["Cookie"] = cookie.partition(";")[0]
        self.assertEqual(200, self.client.get("/").status)
        self.assertEqual(("console login", "console: alice"), (self.noted()[-1]["action"], self.noted()[-1]["by"]))

    def test_nobody(self) -> None:
        """Without a session each page leads to the login, and so does an unknown id."""
        for cookie in ("", "s2sgw=", "s2sgw=x", "s2sgw=" + "A" * 43, "s2sgw=\u00e9"):
            self.client.headers["Cookie"] = cookie
            for path in ("/", "/peers", "/peers/peer.example", "/queue", "/queue/stanzas?peer=a", "/refusals", "/approvals", "/certificates", "/live"):
                self.assertEqual(303, self.client.get(path).status, path)
                self.assertIn("/login?next=/", self.client.get(path).headers["location"])
        for path in ("/queue/change", "/approvals/approve", "/approvals/revoke", "/reload"):
            self.assertIn("/login", self.submit(path, peer="peer.example", action="hold").headers["location"])
        self.assertFalse(self.gateway.audit.path.exists())

    def test_wrong_password(self) -> None:
        """The answers to a wrong password, an unknown user and a missing field look the same."""
        texts = set()
        for fields in ({"name": "alice", "password": "x"}, {"name": "nobody", "password": "correct horse"}, {"name": "", "password": ""}, {}):
            response = self.submit("/login", **fields)
            self.assertEqual((403, False), (response.status, "set-cookie" in response.headers))
            texts.add(response.text.replace(f'value="{fields.get("name", "")}"', ""))
        self.assertEqual(2, len(texts))  # the cursor is in the field that is to be filled in
        self.assertIn("The user or the password is wrong.", texts.pop())

    def test_brute_force(self) -> None:
        """After a few attempts the site has to wait, even with the right password. Other sites can log in, and so can a token."""
        for _ in range(5):
            self.submit("/login", name="alice", password="wrong")
        response = self.submit("/login", name="alice", password="correct horse")
        self.assertEqual((429, "20"), (response.status, response.headers["retry-after"]))
        self.log_in("alice", self.browser("198.51.100.7"))
        token = self.token()
        self.assertEqual(303, self.submit("/login", token=token).status)
        self.reactor.advance(20)
        self.log_in()

    def test_new_id(self) -> None:
        """Each login has a new id and ends the browser's previous session: an id cannot be chosen or kept (session fixation)."""
        self.client.headers["Cookie"] = "s2sgw=chosen"
        first = self.log_in().headers["Cookie"]
        self.assertNotIn("chosen", first)
        second = self.log_in("bob").headers["Cookie"]
        self.assertNotEqual(first, second)
        self.client.headers["Cookie"] = first
        self.assertEqual(303, self.client.get("/").status)

    def test_log_out(self) -> None:
        """A logout ends the session and deletes the cookie. Another site cannot log a user out."""
        self.log_in()
        csrf = self.form("/", "/logout")
        self.assertEqual(403, self.submit("/logout").status)
        self.assertEqual(403, self.submit("/logout", origin="http://evil.example", **csrf).status)
        response = self.submit("/logout", **csrf)
        self.assertEqual((303, "/login"), (response.status, response.headers["location"]))
        self.assertIn("Max-Age=0", response.headers["set-cookie"])
        self.assertEqual(303, self.client.get("/").status)

    def test_where_to(self) -> None:
        """The login leads only to pages of the console."""
        for path in ("//evil.example", "/\\evil.example", "http://evil.example/", "javascript:alert(1)", "/login", "/a\r\nSet-Cookie: x=y", "", "evil", b"/%0d%0a".decode() + "\n"):
            self.assertEqual("/", _own_path(path.encode()), path)
        for path in ("/", "/peers?q=a&page=2", "/peers/xn--mnchen-3ya.example"):
            self.assertEqual(path, _own_path(path.encode()))

    def test_session_ends(self) -> None:
        """A session that was idle for long has ended."""
        self.log_in()
        self.reactor.advance(sessions.IDLE_SECONDS + 1)
        self.assertEqual(303, self.client.get("/").status)

    def token(self, **arguments: str) -> str:
        found: str = self.console.verbs["console token"](arguments)["token"]
        return found

    def test_token(self) -> None:
        """A link logs in once, when its form is sent and not when it is opened, with the requested role."""
        answer = self.console.verbs["console token"]({"user": "root", "role": "read-only"})
        self.assertEqual(f"http://127.0.0.1:8269/login?token={answer['token']}", answer["address"])
        path = answer["address"].removeprefix("http://127.0.0.1:8269")
        for _ in range(2):
            self.assertIn(f'name="token" value="{answer["token"]}"', self.client.get(path).text)
        response = self.submit("/login", token=answer["token"])
        self.client.headers["Cookie"] = response.headers["set-cookie"].partition(";")[0]
        self.assertIn("read-only", self.client.get("/").text)
        self.assertIn("used already", self.submit("/login", token=answer["token"]).text)
        self.assertEqual([("console token", "admin socket"), ("console login", "console: root")], [(row["action"], row["by"]) for row in self.noted()])

    def test_bad_tokens(self) -> None:
        """A name that looks like another, or an unknown role, is refused. So is a token that cannot be noted."""
        for arguments in ({"user": "a b"}, {"user": ""}, {"user": 1}, {"role": "admin"}, {"user": "a\n"}):
            self.assertRaises(VerbError, self.console.verbs["console token"], arguments)
        self.gateway.audit.path.mkdir()
        self.assertRaises(VerbError, self.console.verbs["console token"], {})

    def test_many_bad_tokens(self) -> None:
        """Invalid tokens do not fill the log: each counts as a login attempt. A valid one is never refused for that."""
        token, told = self.token(), list[Any]()
        observer: Any = told.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        found = [self.submit("/login", token=f"guess {number}").status for number in range(50)]
        self.assertEqual([403] * 5 + [429] * 45, found)
        self.assertEqual(5, [event.get("event") for event in told].count("console login refused"))
        self.assertEqual(303, self.submit("/login", token=token).status)

    def test_unnoted(self) -> None:
        """A login that cannot be noted in the audit log is not made."""
        self.gateway.audit.path.mkdir()
        self.assertEqual(500, self.submit("/login", name="alice", password="correct horse").status)
        self.assertEqual(1, len(self.flushLoggedErrors(OSError)))


    def test_proxy(self) -> None:
        """Behind a proxy with TLS the cookie is sent only over TLS."""
        response = self.submit("/login", origin="https://localhost:8269", name="alice", password="correct horse")
        self.assertEqual((303, True), (response.status, "; Secure" in response.headers["set-cookie"]))

    def test_odd_bodies(self) -> None:
        """Bodies of another content type are not forms."""
        multipart = b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nalice\r\n--x--\r\n'
        for kind, body in (("multipart/form-data; boundary=x", multipart), ("text/plain", b"name=alice"), ("application/json", b"{}")):
            response = self.client.ask("POST", "/login", body, Content_Type=kind, Origin="http://localhost:8269")
            self.assertIn(response.status, (403, 415), kind)


class ReloadTests(ConsoleCase):
    """Tests of users that change while they are logged in."""

    def test_while_the_password_is_checked(self) -> None:
        """A user that is removed, or gets a new password, while the old one is checked gets no session."""
        waiting: Deferred[bool] = Deferred()
        access: Any = self.console.site.resource.children[b"login"]._frame.access
        self.patch(access._passwords, "check", lambda name, password: waiting)
        _, transport = self.client.send(
            "POST", "/login", b"name=alice&password=correct+horse", Content_Type="application/x-www-form-urlencoded", Origin="http://localhost:8269",
        )
        self.reloaded(self.hashes["alice"], self.hashes["bob"])
        waiting.callback(True)
        head = transport.value().decode()
        self.client.headers["Cookie"] = head.partition("Set-Cookie: ")[2].partition(";")[0]
        self.assertEqual(303, self.client.get("/peers").status)

    def reloaded(self, old: str, new: str) -> None:
        self.path.write_text(self.path.read_text().replace(old, new))
        done = self.gateway.reconfiguration.reload.run("the test")
        self.reactor.advance(0)
        self.assertTrue(self.successResultOf(done).ok)

    def test_password(self) -> None:
        """A new password ends the sessions of its user, and not those of others. No log has the hash."""
        self.log_in()
        bob = self.log_in("bob", self.browser())
        self.reloaded(self.hashes["alice"], self.hashes["bob"])
        self.assertEqual((303, 200), (self.client.get("/").status, bob.get("/").status))
        self.assertNotIn(self.hashes["bob"], self.gateway.audit.path.read_text())
        self.assertIn("console.users.alice", self.gateway.audit.path.read_text())

    def test_removed(self) -> None:
        """A removed user is logged out at once."""
        bob = self.log_in("bob")
        self.reloaded(f'bob = "{self.hashes["bob"]}"\n', "")
        self.assertEqual(303, bob.get("/").status)

    def test_role(self) -> None:
        """A changed role applies at once."""
        self.log_in()
        self.reloaded('alice = "operator"', 'alice = "read-only"')
        self.assertEqual(403, self.submit("/reload", **self.form("/", "/logout")).status)


class ForgeryTests(ConsoleCase):
    """Tests of requests that pages of other sites make a browser send."""

    def test_forms(self) -> None:
        """A form needs the secret of its session, and our origin. Another port of the same host is another origin."""
        self.log_in()
        fields = {"peer": "peer.example", "action": "hold"}
        csrf = self.form("/", "/logout")["csrf"]
        other = self.form_of_another_session()
        for origin, text in (
            ("http://localhost:8269", ""), ("http://localhost:8269", "x" * 43), ("http://localhost:8269", other),
            ("http://evil.example", csrf), ("http://localhost:3000", csrf), ("null", csrf), ("https://localhost", csrf), (None, csrf),
        ):
            response = self.submit("/queue/change", origin=origin, **fields, csrf=text)
            self.assertEqual(403, response.status, (origin, text))
        self.assertEqual([], list(self.gateway.custody.services.holds))
        self.assertEqual(303, self.submit("/queue/change", **fields, csrf=csrf).status)
        self.assertEqual(1, len(list(self.gateway.custody.services.holds)))

    def form_of_another_session(self) -> str:
        mine, self.client = self.client, self.browser()
        self.log_in("bob")
        csrf = self.form("/", "/logout")["csrf"]
        self.client = mine
        return csrf

    def test_by_get(self) -> None:
        """GET changes nothing."""
        self.log_in()
        csrf = self.form("/", "/logout")["csrf"]
        for path in ("/queue/change", "/approvals/approve", "/approvals/revoke", "/reload", "/logout"):
            self.assertEqual(405, self.client.get(f"{path}?peer=peer.example&action=hold&csrf={csrf}").status, path)
        self.assertEqual([], list(self.gateway.custody.services.holds))

    def test_login_form(self) -> None:
        """Another site cannot log a browser in."""
        self.assertEqual(403, self.submit("/login", origin="http://evil.example", name="alice", password="correct horse").status)
        self.assertEqual(403, self.submit("/login", origin=None, name="alice", password="correct horse").status)

    def test_http_interface(self) -> None:
        """With a cookie the HTTP interface accepts changes from our own pages only, also with an empty body."""
        self.log_in()
        for headers in ({}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost:3000"}):
            self.assertEqual(403, self.client.post("/api/v1/reload", **headers).status)
        self.assertEqual(200, self.client.post("/api/v1/reload", Origin="http://localhost:8269").status)
        self.assertEqual("console: alice", self.noted()[-1]["by"])

    def test_hosts(self) -> None:
        """A host name that is not ours is refused before any other check (DNS rebinding). Addresses and health checks are accepted."""
        self.log_in()
        for host in ("evil.example", "evil.example:8269", "localhost.evil.example", "127.0.0.1.evil.example", "", "a b"):
            self.client.host = host
            for path in ("/", "/login", "/metrics", "/api/v1/status", "/openapi.json", "/events", "/static/console.css"):
                self.assertIn(self.client.get(path).status, (400, 421), (host, path))
            if host:
                self.assertEqual(200, self.client.get("/healthz").status)
        for host in ("localhost", "LOCALHOST:1", "127.0.0.1:8269", "[::1]:8269", "192.0.2.4"):
            self.client.host = host
            self.assertEqual(200, self.client.get("/").status, host)

    def test_configured_hosts(self) -> None:
        """A host name in the configuration is accepted from the reload on."""
        self.client.host = "Admin.example.org:443"
        self.assertEqual(421, self.client.get("/login").status)
        self.path.write_text(self.path.read_text().replace("[console]\n", '[console]\nhosts = ["admin.example.org"]\n'))
        done = self.gateway.reconfiguration.reload.run("the test")
        self.reactor.advance(0)
        self.successResultOf(done)
        self.assertEqual(200, self.client.get("/login").status)


class HTTPInterfaceTests(ConsoleCase):
    """Tests of the HTTP interface on the console's port."""

    def basic(self, name: str, password: str) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}

    def test_password(self) -> None:
        """Each request may have a user and a password. A wrong one is refused, and a browser does not ask for one."""
        self.assertEqual(200, self.client.get("/api/v1/status", **self.basic("alice", PASSWORDS["alice"])).status)
        self.assertEqual("console: alice", self.told_by(self.client.post("/api/v1/reload", **self.basic("alice", PASSWORDS["alice"]))))
        for headers in ({}, self.basic("alice", "x"), self.basic("nobody", "x"), {"Authorization": "Bearer x"}, {"Authorization": "Basic !!"}, {"Authorization": "Basic eA=="}):
            response = self.client.get("/api/v1/status", **headers)
            self.assertEqual((401, False), (response.status, "www-authenticate" in response.headers))

    def told_by(self, response: Any) -> str:
        self.assertEqual(200, response.status)
        by: str = self.noted()[-1]["by"]
        return by

    def test_brute_force(self) -> None:
        """Guessing is limited here as at the login. A user with a known password is not locked out by it."""
        good = self.basic("alice", PASSWORDS["alice"])
        self.client.get("/api/v1/status", **good)
        found = [self.client.get("/api/v1/status", **self.basic("alice", f"guess {number}")).status for number in range(8)]
        self.assertEqual([401] * 5 + [429] * 3, found)
        self.assertEqual(200, self.client.get("/api/v1/status", **good).status)

    def test_other_site(self) -> None:
        """A browser that has a password from an address sends it with the requests of other sites too: those change nothing."""
        good = self.basic("alice", PASSWORDS["alice"])
        for origin in ("http://evil.example", "null", "http://localhost:3000"):
            self.assertEqual(403, self.client.post("/api/v1/reload", Origin=origin, **good).status)
        self.assertFalse(self.gateway.audit.path.exists())
        self.assertEqual(200, self.client.post("/api/v1/reload", Origin="http://localhost:8269", **good).status)

    def test_gone_while_the_password_is_checked(self) -> None:
        """A client that disconnects before the password is checked gets no answer and causes no error, also if the check continues."""
        access: Any = self.console.site.resource.children[b"login"]._frame.access
        for path in ("/events", "/api/v1/status"):
            for stops in (True, False):
                waiting: Deferred[bool] = Deferred(None if stops else lambda _: None)
                self.patch(access._passwords, "check", lambda name, password, waiting=waiting: waiting)
                protocol, _ = self.client.send("GET", path, **self.basic("alice", f"{path} {stops}"))
                protocol.connectionLost()
                if not waiting.called:
                    waiting.callback(True)
                self.assertEqual((0, []), (len(self.gateway.record.live), self.flushLoggedErrors()))

    def test_roles(self) -> None:
        """Read-only users can read, and change nothing. Users' stanzas, tokens and files of this machine are not for all roles."""
        bob, alice = self.basic("bob", PASSWORDS["bob"]), self.basic("alice", PASSWORDS["alice"])
        self.assertEqual(200, self.client.get("/api/v1/peers", **bob).status)
        for path in ("queue/hold", "reload", "pins/approve"):
            self.assertEqual(403, self.client.post(f"/api/v1/{path}", {"target": ["peer.example"]} if "hold" in path else None, **bob).status, path)
        self.assertEqual(200, self.client.get("/api/v1/queue/show?target=peer.example", **bob).status)
        self.assertEqual(403, self.client.get("/api/v1/queue/show?target=peer.example&target=example.org&target=1", **bob).status)
        self.assertEqual(200, self.client.get("/api/v1/queue/show?target=peer.example", **alice).status)
        for path in ("replay?with=/etc/passwd", "explain?peer=peer.example&with=/etc/passwd"):
            self.assertEqual(403, self.client.get(f"/api/v1/{path}", **alice).status)
        self.assertEqual(404, self.client.post("/api/v1/console/token", {}, **alice).status)

    def test_session(self) -> None:
        """A session is accepted too. Its events end with it."""
        self.log_in()
        self.assertEqual(200, self.client.get("/api/v1/peers").status)
        _, transport = self.client.send("GET", "/events")
        self.submit("/logout", **self.form("/", "/logout"))
        self.reactor.advance(20)
        self.assertIn(b"event: end", transport.value())

    def test_watching_is_no_use(self) -> None:
        """An open page of live events does not extend its session forever."""
        self.log_in()
        _, transport = self.client.send("GET", "/events")
        for _ in range(200):
            self.reactor.advance(20)
        self.assertIn(b"event: end", transport.value())

    def test_without_log_in(self) -> None:
        """Metrics and health need no login."""
        for path in ("/metrics", "/healthz", "/readyz"):
            self.assertEqual(200, self.client.get(path).status, path)


class RouteTests(ConsoleCase):
    """Tests of the permissions of every route, also of later ones."""

    #: the routes that need no user
    OPEN = {"/login", "/logout", "/openapi.json", "/metrics", "/healthz", "/readyz", "/favicon.ico", "/static/console.css", "/static/console.js", "/static/icon.svg"}

    def routes(self, resource: Any, path: str = "") -> Iterator[tuple[str, Any]]:
        for name, child in resource.children.items():
            yield f"{path}/{name.decode()}", child
            yield from self.routes(child, f"{path}/{name.decode()}")

    def setUp(self) -> None:
        super().setUp()
        self.found = dict(self.routes(self.console.site.resource))

    def test_nobody(self) -> None:
        """Without a user nothing is shown or changed: pages lead to the login, the HTTP interface answers 401, and folders have no page."""
        self.assertLess(self.OPEN, set(self.found))
        for path in self.found.keys() - self.OPEN:
            for method in ("GET", "POST", "HEAD", "PUT", "DELETE"):
                response = self.client.ask(method, path, Origin="http://localhost:8269")
                led = response.headers.get("location", "").startswith("/login")
                self.assertTrue(response.status in (401, 404, 405, 501) or (response.status, led) == (303, True), (method, path, response))
        self.assertFalse(self.gateway.audit.path.exists())

    def test_read_only(self) -> None:
        """A read-only user's forms have no effect, and verbs that change something, or show private text, are refused."""
        self.log_in("bob")
        csrf, noted = self.form("/", "/logout"), self.noted()
        forms = [path for path, page in self.found.items() if isinstance(page, PageResource) and page._act is not None]
        self.assertLess({"/queue/change", "/peer/deny", "/probe/run", "/reload"}, set(forms))
        for path in forms:
            self.assertEqual(403, self.submit(path, **csrf, peer="peer.example", action="hold", domain="peer.example").status, path)
        for path, page in self.found.items():
            if isinstance(page, VerbResource) and (page._row.for_operators or page._row.local):
                method = "POST" if page._row.changes else "GET"
                self.assertEqual(403, self.client.ask(method, path, Origin="http://localhost:8269").status, path)
        self.assertEqual(noted, self.noted())

    def test_forms_need_the_secret(self) -> None:
        """No form of any route has an effect for an operator without the secret of the session, or from another site."""
        self.log_in()
        csrf, noted = self.form("/", "/logout"), self.noted()
        for path, page in self.found.items():
            if isinstance(page, PageResource) and page._act is not None:
                self.assertEqual(403, self.submit(path, peer="peer.example", action="hold").status, path)
                self.assertEqual(403, self.submit(path, origin="http://evil.example", **csrf, peer="peer.example", action="hold").status, path)
        self.assertEqual(noted, self.noted())


class BrokenPageTests(ConsoleCase):
    """Tests of pages that cannot be made."""

    def setUp(self) -> None:
        super().setUp()
        self.log_in()
        self.frame: Any = self.console.site.resource.children[b"login"]._frame
        self.templates = self.frame.environment.get_template

    def broken(self, *names: str) -> None:
        def template(name: str, *more: Any) -> Any:
            if name in names:
                raise RuntimeError(name)
            return self.templates(name, *more)

        self.patch(self.frame.environment, "get_template", template)

    def test_page(self) -> None:
        """A page that fails while it is written is answered at once with an error."""
        self.broken("peers.html")
        self.assertEqual((500, True), ((found := self.client.get("/peers")).status, "Its log says why" in found.text))
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    def test_error_page_too(self) -> None:
        """The same holds if the error page fails too: for a page, a form and the login."""
        self.broken("peers.html", "error.html", "login.html")
        csrf = self.form("/", "/logout")
        self.assertEqual(500, self.client.get("/peers").status)
        self.assertEqual(500, self.submit("/queue/change", action="nonsense", **csrf).status)
        self.assertEqual(500, self.submit("/login", name="alice", password="x").status)
        self.assertEqual({"RuntimeError"}, {each.type.__name__ for each in self.flushLoggedErrors()})
        self.assertEqual([], [call for call in self.reactor.getDelayedCalls() if call.getTime() - self.reactor.seconds() == PAGE_SECONDS])


class HeaderTests(ConsoleCase):
    """Tests of the headers of every answer."""

    def test_headers(self) -> None:
        """Pages, errors, redirects, files and the HTTP interface have the same security headers."""
        self.log_in()
        for path in ("/", "/login", "/nonsense", "/peers/a b", "/api/v1/nonsense", "/api/v1/peers", "/metrics", "/static/console.css", "/queue/change", "/static/../x"):
            response = self.client.get(path.replace(" ", "%20"))
            for name, value in HEADERS.items():
                self.assertEqual(value, response.headers.get(name.lower()), (path, name))
        for forbidden in ("unsafe-inline", "unsafe-eval", "*", "http:", "data:"):
            self.assertNotIn(forbidden, HEADERS["Content-Security-Policy"])

    def test_no_inline(self) -> None:
        """No page has an inline script, style or handler, which the policy would forbid. The browser keeps none of them."""
        self.log_in()
        self.hold_certificate()
        for path in ("/", "/login", "/peers", "/peers/peer.example", "/queue", "/queue/stanzas?peer=peer.example", "/refusals", "/approvals", "/certificates", "/live", "/nonsense"):
            response = self.client.get(path)
            for pattern in ("<style", " style=", " onclick", " onload", "javascript:", "http://", "https://", "//cdn"):
                self.assertNotIn(pattern, response.text.replace("http://s2sgw/events", ""), path)
            self.assertEqual(["<script src"], sorted({each[:11] for each in re.findall(r"<script[^>]*", response.text)}), path)
            self.assertEqual("no-store", response.headers["cache-control"])

    def test_files(self) -> None:
        """The files of the pages are served, and no others."""
        for name, kind in (("console.css", "text/css"), ("console.js", "text/javascript"), ("icon.svg", "image/svg+xml")):
            response = self.client.get(f"/static/{name}?x")
            self.assertEqual((200, f"{kind}; charset=utf-8"), (response.status, response.headers["content-type"]))
            self.assertIn("immutable", response.headers["cache-control"])
        for path in ("/static", "/static/", "/static/base.html", "/static/..%2fsite.py", "/templates/base.html"):
            self.assertEqual(404, self.client.get(path).status, path)

    def test_head(self) -> None:
        """The answer to HEAD is a page without its body."""
        self.log_in()
        response = self.client.ask("HEAD", "/peers")
        self.assertEqual((200, b""), (response.status, response.body))

    def test_not_ready(self) -> None:
        """If the gateway is not ready, each page says so."""
        self.log_in()
        self.reasons = ["it is stopping"]
        self.assertIn("not ready: it is stopping", self.client.get("/peers").text)


class BreakingTests(ConsoleCase):
    """Tests of pages that cannot be made."""

    def test_breaks(self) -> None:
        """An internal error is logged, and shown without its details."""
        self.log_in()
        verbs: Any = self.gateway.verbs
        verbs["certs"] = lambda _: 1 / 0
        response = self.client.get("/certificates")
        self.assertEqual(500, response.status)
        self.assertNotIn("division", response.text)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_takes_long(self) -> None:
        """A page that takes too long is cancelled."""
        self.log_in()
        verbs: Any = self.gateway.verbs
        verbs["certs"] = lambda _: Deferred()
        _, transport = self.client.send("GET", "/certificates")
        self.reactor.advance(60)
        self.assertIn(b"503", transport.value()[:20])

    def test_reader_goes(self) -> None:
        """A page for a client that has disconnected is cancelled."""
        self.log_in()
        cancelled: list[object] = []
        verbs: Any = self.gateway.verbs
        verbs["certs"] = lambda _: Deferred(cancelled.append)
        protocol, _ = self.client.send("GET", "/certificates")
        protocol.connectionLost()
        self.assertEqual(1, len(cancelled))
