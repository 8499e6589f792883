"""The console's port: pages, log-in, static files, and the HTTP interface, with security headers for browsers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote

from jinja2 import Environment
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from s2sgw import __version__
from s2sgw.admin.http_api import APIServices, add_resources, answer_json
from s2sgw.admin.server import VerbError
from s2sgw.console.access import Access, LoggedInUser
from s2sgw.console.login import TooManyAttempts
from s2sgw.console.pages import Act, FormResult, NoSuchPage, PageRequest, Pages, Show, Shown
from s2sgw.console.rendering import FOLDER, environment
from s2sgw.net.http_server import BoundedRequest, BoundedSite

#: Seconds for one page.
PAGE_SECONDS = 60
#: Scripts, styles and images come only from here; pages of other sites cannot show ours in a frame.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
#: Paths that health checks request under any host name.
ANY_HOST = (b"/healthz", b"/readyz")
STATIC = {"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"}

_log = Logger("s2sgw")
_OWN_PATH = re.compile(r"/(?![/\\])[A-Za-z0-9._~%/?=&:+-]*\Z")


class ConsoleSite(BoundedSite):
    """The site of the console's port. `is_own_host` returns whether a request's Host header names this console."""

    def __init__(self, root: Resource, clock: IReactorTime, is_own_host: Callable[[BoundedRequest], bool]) -> None:
        super().__init__(root, clock)
        self._is_own_host = is_own_host

    def getResourceFor(self, request: Request) -> Any:
        """Return the resource for a request, with the headers of every answer set."""
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        request.setHeader("server", "s2sgw")
        if request.path not in ANY_HOST and not self._is_own_host(cast(BoundedRequest, request)):
            return OtherHost()
        return super().getResourceFor(request)


class OtherHost(Resource):
    """The resource for requests to another host."""

    isLeaf = True

    def render(self, request: Request) -> int:
        """Answer that this is not the host."""
        text = "This name is not one of the console's. Add it to hosts in [console], or use the address."
        return answer_json(request, 421, {"error": text, "kind": "usage"})


class StaticFile(Resource):
    """One file of the package, read once. Its address changes with its content, so browsers may keep it."""

    isLeaf = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self._data = (FOLDER / "static" / name).read_bytes()
        self._type = STATIC[name]
        self.digest = hashlib.sha256(self._data).hexdigest()[:12]

    def render_GET(self, request: Request) -> bytes:
        """Answer with the file."""
        request.setHeader("content-type", f"{self._type}; charset=utf-8")
        request.setHeader("cache-control", "public, max-age=31536000, immutable")
        return self._data


@dataclass(frozen=True, slots=True)
class Frame:
    """The frame of every page."""

    environment: Environment
    access: Access
    clock: IReactorTime
    static: Mapping[str, str]
    unready: Callable[[], list[str]]

    def write(self, request: BoundedRequest, shown: Shown, user: LoggedInUser | None, status: int = 200) -> None:
        """Answer with a page."""
        notice, failed = user.session.take_notice() if user is not None and user.session is not None else ("", False)
        csrf = user.session.csrf if user is not None and user.session is not None else ""
        text = self.environment.get_template(shown.template).render(
            user=user, csrf=csrf, notice=notice, failed=failed, path=request.path.decode("ascii", "replace"), static=self.static,
            version=__version__, unready=self.unready(), **shown.facts,
        )
        body = text.encode()
        request.setResponseCode(status)
        request.setHeader("content-type", "text/html; charset=utf-8")
        request.setHeader("cache-control", "no-store")
        request.setHeader("content-length", str(len(body)))
        request.write(b"" if request.method == b"HEAD" else body)
        request.finish()

    def refuse(self, request: BoundedRequest, status: int, title: str, text: str, user: LoggedInUser | None = None) -> int:
        """Answer with a page that names the error."""
        self.write(request, Shown("error.html", {"title": title, "text": text}), user, status)
        return NOT_DONE_YET


def redirect(request: BoundedRequest, path: str) -> int:
    """Answer with a redirect to another page of ours."""
    request.setResponseCode(303)
    request.setHeader("location", path)
    request.setHeader("cache-control", "no-store")
    request.finish()
    return NOT_DONE_YET


def answer_plainly(failure: Failure, request: BoundedRequest) -> None:
    """Answer a request whose error page could not be made, without a template, so that the client does not wait."""
    _log.failure("an error page of the console failed", failure)
    if not request._disconnected and not request.startedWriting:
        answer_json(request, 500, {"error": "the gateway could not answer; its log says why", "kind": "failed"})


class PageResource(Resource):
    """One page, and the forms that are sent to it by their names (`/queue` and `/queue/change`)."""

    isLeaf = True
    log = Logger("s2sgw")

    def __init__(self, frame: Frame, show: Show | None, act: Act | None = None, for_operators: bool = False) -> None:
        super().__init__()
        self._frame = frame
        self._show = show
        self._act = act
        self._for_operators = for_operators

    def render(self, request: BoundedRequest) -> int:
        """Answer with the page, or carry out the form."""
        user = self._frame.access.user_of(request)
        if user is None:
            return redirect(request, f"/login?next={quote(_own_path(request.uri), safe='/')}")
        page = PageRequest(tuple(_texts(request.postpath or [])), fields_of(request), user, set())
        if request.method == b"POST" and self._act is not None:
            return self._carry_out(request, page, self._act)
        if request.method not in (b"GET", b"HEAD") or self._show is None:
            return self._frame.refuse(request, 405, "That does not work", "This page cannot be asked like that.", user)
        if self._for_operators and not user.operator:
            return self._frame.refuse(request, 403, "Not allowed", "Your role is read-only: it does not see this page.", user)
        return self._answer(request, user, self._show(page), lambda shown: self._frame.write(request, shown, user))

    def _carry_out(self, request: BoundedRequest, page: PageRequest, act: Act) -> int:
        frame, user = self._frame, page.user
        session = user.session
        if not frame.access.is_own_page(request) or session is None or not session.carries(page.fields.get("csrf", "")):
            text = "The form is too old, or does not come from this console. Go back, load the page again, and try once more."
            return frame.refuse(request, 403, "Not done", text, user)
        if not user.operator:
            return frame.refuse(request, 403, "Not allowed", "Your role is read-only: it changes nothing.", user)

        def done(result: FormResult) -> None:
            session.notice, session.failed = result.text, False
            redirect(request, _own_path(result.path.encode()))

        return self._answer(request, user, act(page), done)

    def _answer(
        self, request: BoundedRequest, user: LoggedInUser, made: Coroutine[Any, Any, Any], answer: Callable[[Any], object],
    ) -> int:
        """Call `answer` with the result of `made`. If one of them fails, answer with the error."""
        answered: Deferred[Any] = Deferred.fromCoroutine(made)
        answered.addTimeout(PAGE_SECONDS, self._frame.clock)
        request.notifyFinish().addErrback(lambda _: answered.cancel())
        answered.addCallback(answer)
        answered.addErrback(self._failed, request, user)
        answered.addErrback(answer_plainly, request)
        return NOT_DONE_YET

    def _failed(self, failure: Failure, request: BoundedRequest, user: LoggedInUser) -> None:
        if request._disconnected:
            if not failure.check(CancelledError):
                self.log.failure("a page failed whose reader is gone", failure)
            return
        frame, error = self._frame, failure.value
        if isinstance(error, NoSuchPage):
            frame.refuse(request, 404, "Not found", "There is no such page.", user)
        elif isinstance(error, VerbError):
            frame.refuse(request, 400 if error.kind == "usage" else 409, "Not done", str(error), user)
        elif isinstance(error, TookTooLong):
            frame.refuse(request, 503, "No answer", "The gateway did not answer in time. Try again in a moment.", user)
        else:
            self.log.failure("a page of the console failed", failure)
            frame.refuse(request, 500, "Error", "The gateway could not make this page. Its log says why.", user)


class LoginPage(Resource):
    """/login."""

    isLeaf = True
    log = Logger("s2sgw")

    def __init__(self, frame: Frame) -> None:
        super().__init__()
        self._frame = frame

    def render_GET(self, request: BoundedRequest) -> int:
        """Show the form. A token in the address is used when the form is sent, not when the page is viewed."""
        fields = fields_of(request)
        return self._form(request, 200, "", fields.get("next", ""), token=fields.get("token", ""))

    def render_POST(self, request: BoundedRequest) -> int:
        """Log in."""
        fields = fields_of(request)
        if not self._frame.access.is_own_page(request):
            return self._form(request, 403, "The form does not come from this console. Try again.", "")
        access, token = self._frame.access, fields.get("token", "")
        asked: Deferred[str | None]
        if token:
            asked = maybeDeferred(access.log_in_by_token, request, token)
        else:
            name, password = fields.get("name", "").strip(), fields.get("password", "")
            asked = Deferred.fromCoroutine(access.log_in(request, name, password))
        asked.addTimeout(PAGE_SECONDS, self._frame.clock)
        asked.addCallback(self._logged_in, request, fields)
        asked.addErrback(self._failed, request, fields)
        asked.addErrback(answer_plainly, request)
        return NOT_DONE_YET

    def _logged_in(self, identifier: str | None, request: BoundedRequest, fields: Mapping[str, str]) -> None:
        if request._disconnected:
            self._frame.access.sessions.end(identifier or "")
        elif identifier is None:
            wrong = "This link was used already, or is too old." if fields.get("token") else "The user or the password is wrong."
            self._form(request, 403, wrong, fields.get("next", ""), fields.get("name", ""))
        else:
            self._frame.access.set_cookie(request, identifier)
            redirect(request, _own_path(fields.get("next", "").encode("utf-8", "replace")))

    def _failed(self, failure: Failure, request: BoundedRequest, fields: Mapping[str, str]) -> None:
        if request._disconnected:
            return
        error, text, status = failure.value, "The gateway could not log you in. Its log says why.", 500
        if isinstance(error, TooManyAttempts):
            request.setHeader("retry-after", str(max(1, round(error.seconds))))
            text, status = f"There were {error}.", 429
        else:
            self.log.failure("a log-in to the console failed", failure)
        self._form(request, status, text, fields.get("next", ""), fields.get("name", ""))

    def _form(self, request: BoundedRequest, status: int, wrong: str, following: str, name: str = "", token: str = "") -> int:
        facts = {"wrong": wrong, "next": following, "name": name, "token": token}
        self._frame.write(request, Shown("login.html", facts), None, status)
        return NOT_DONE_YET


class LogoutPage(Resource):
    """/logout, for a form."""

    isLeaf = True

    def __init__(self, frame: Frame) -> None:
        super().__init__()
        self._frame = frame

    def render_POST(self, request: BoundedRequest) -> int:
        """Log out."""
        access = self._frame.access
        user = access.user_of(request)
        carries = user is not None and user.session is not None and user.session.carries(fields_of(request).get("csrf", ""))
        if user is not None and (not carries or not access.is_own_page(request)):
            return self._frame.refuse(request, 403, "Not done", "The form does not come from this console.", user)
        access.log_out(request)
        access.set_cookie(request, "")
        return redirect(request, "/login")


class RootPage(PageResource):
    """The page /, with everything else below it. An unknown path is an error page."""

    isLeaf = False

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Return the page for a path that has no resource."""
        return self if path == b"" else NotFoundPage(self._frame)


class NotFoundPage(Resource):
    """The page for every unknown path."""

    isLeaf = True

    def __init__(self, frame: Frame) -> None:
        super().__init__()
        self._frame = frame

    def render(self, request: BoundedRequest) -> int:
        """Answer that there is no such page."""
        user = self._frame.access.user_of(request)
        return self._frame.refuse(request, 404, "Not found", "There is no such page.", user)


def console_site(services: APIServices, access: Access, pages: Pages) -> BoundedSite:
    """Return the site of the console's port."""
    static = {name: StaticFile(name) for name in STATIC}
    addresses = {name: f"/static/{name}?{file.digest}" for name, file in static.items()}
    frame = Frame(environment(), access, services.clock, addresses, services.unready)
    root = RootPage(frame, pages.overview)
    add_resources(root, services, access.authenticate)
    folder = NotFoundPage(frame)
    folder.isLeaf = False
    for name, file in static.items():
        folder.putChild(name.encode("ascii"), file)
    root.putChild(b"static", folder)
    root.putChild(b"favicon.ico", static["icon.svg"])
    root.putChild(b"login", LoginPage(frame))
    root.putChild(b"logout", LogoutPage(frame))
    root.putChild(b"reload", PageResource(frame, None, pages.reload))
    peer = NotFoundPage(frame)
    peer.isLeaf = False
    for form, act in {"close": pages.close, "deny": pages.deny, "forget": pages.forget}.items():
        peer.putChild(form.encode("ascii"), PageResource(frame, None, act))
    root.putChild(b"peer", peer)
    probe = ListPage(frame, pages.probes, pages.probe, for_operators=True)
    for form, act in {"run": pages.begin_probe, "check": pages.begin_check}.items():
        probe.putChild(form.encode("ascii"), PageResource(frame, None, act))
    root.putChild(b"probe", probe)
    for name, shows, changes in (
        ("peers", pages.peers, {}), ("queue", pages.queue, {"change": pages.change_queue}), ("refusals", pages.refusals, {}),
        ("approvals", pages.approvals, {"approve": pages.approve, "revoke": pages.revoke}),
        ("certificates", pages.certificates, {}), ("live", pages.live, {}),
    ):
        page = ListPage(frame, shows, pages.peer if name == "peers" else None)
        for form, act in changes.items():
            page.putChild(form.encode("ascii"), PageResource(frame, None, act))
        root.putChild(name.encode("ascii"), page)
    cast(Resource, root.children[b"queue"]).putChild(b"stanzas", PageResource(frame, pages.stanzas))
    return ConsoleSite(root, services.clock, access.is_own_host)


class ListPage(PageResource):
    """A page with others below it: forms, and with `one` the page of each row."""

    isLeaf = False

    def __init__(self, frame: Frame, show: Show, one: Show | None, for_operators: bool = False) -> None:
        super().__init__(frame, show, for_operators=for_operators)
        self._one = one

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Return the page of a row."""
        if path == b"":
            return self
        if self._one is None:
            return NotFoundPage(self._frame)
        cast(Any, request).postpath.insert(0, path)
        return PageResource(self._frame, self._one, for_operators=self._for_operators)


def fields_of(request: Request) -> dict[str, str]:
    """Return the first value of each field of the query or the form, as text."""
    return {name.decode("utf-8", "replace"): values[0].decode("utf-8", "replace") for name, values in request.args.items()}


def _texts(path: list[bytes]) -> list[str]:
    return [part.decode("utf-8", "replace") for part in path]


def _own_path(path: bytes) -> str:
    """Return a path if it leads to a page of ours, else "/"."""
    text = path.decode("ascii", "replace")
    return text if _OWN_PATH.match(text) and not text.startswith(("/login", "/logout")) else "/"
