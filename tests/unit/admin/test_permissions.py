"""Tests of the permissions on the admin socket and over HTTP."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.event_watch import EventWatch
from s2sgw.admin.http_api import APIServices, APIUser, Folder, add_resources
from s2sgw.admin.permissions import Caller, caller_of
from s2sgw.admin.server import AdminFactory
from s2sgw.admin.verb_table import TABLE, VerbRow, is_read_only
from s2sgw.net.http_server import BoundedSite
from s2sgw.net.slices import Slices
from s2sgw.reporting.live_events import LiveEvents
from s2sgw.reporting.metrics import MetricsPage
from tests.support.admin import member, operator
from tests.support.http import Client

#: The verbs that a read-only user may call.
LOOKS = {
    "status", "streams", "lanes", "peers", "names", "refusals", "certs", "pending", "pins list", "explain", "queue list", "queue show", "queue ages",
    "deny list", "report", "cluster status",
}
_VALUES: dict[str, Any] = {"text": "a.example", "flag": True, "count": 5, "seconds": 7.0, "target": ["a.example", "b.example"], "path": "/etc/shadow"}


def questions(row: VerbRow) -> Iterator[dict[str, Any]]:
    """Yield arguments for a verb: the required ones, each of the others beside them, and one stanza as a target."""
    required = {each.name: _VALUES[each.kind] for each in row.parameters if each.required}
    yield required
    for each in row.parameters:
        yield {**required, each.name: _VALUES[each.kind]}
        if each.kind == "target":
            yield {**required, each.name: ["a.example", "b.example", "7"]}


class TableTests(SynchronousTestCase):
    """Members of the group on the socket and read-only users over HTTP have the same permissions."""

    def test_verbs(self) -> None:
        """Verbs that change nothing are allowed. Verbs that change something, unknown ones, and files named by the user are not."""
        self.assertEqual(LOOKS, {name for name, row in TABLE.items() if all(map(row.is_read_only, [next(questions(row))]))})
        self.assertTrue(is_read_only("watch", {"peer": "a.example"}))
        for verb, arguments in (("frobnicate", {}), ("", {}), ("drain", {}), ("status", {"anything": 1}), ("watch", {"anything": 1})):
            self.assertFalse(is_read_only(verb, arguments), verb)
        self.assertFalse(is_read_only("explain", {"peer": "a.example", "with": "/etc/shadow"}))
        self.assertFalse(is_read_only("reload plan", {}))

    def test_text_of_stanzas(self) -> None:
        """The list of a lane's stanzas is allowed. The text of one is for operators."""
        self.assertTrue(is_read_only("queue show", {"target": ["a.example", "b.example"]}))
        self.assertFalse(is_read_only("queue show", {"target": ["a.example", "b.example", 7]}))
        self.assertFalse(is_read_only("queue poison", {}))


class BothInterfacesTests(SynchronousTestCase):
    """Tests of both interfaces, with every verb of the table."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[str] = []
        self.verbs: dict[str, Any] = {name: lambda arguments, name=name: self.asked.append(name) for name in TABLE}

    def on_the_socket(self, identify: Any, verb: str, arguments: dict[str, Any]) -> bool:
        self.asked.clear()
        factory = AdminFactory(self.verbs, self.clock, identify=identify, is_read_only=is_read_only)
        protocol = factory.buildProtocol(None)
        assert protocol is not None
        protocol.makeConnection(StringTransport())
        protocol.dataReceived(json.dumps({"verb": verb, "args": arguments}).encode() + b"\n")
        self.clock.advance(0)
        protocol.connectionLost()
        return bool(self.asked)

    def over_http(self, user: APIUser, row: VerbRow, arguments: dict[str, Any]) -> bool:
        self.asked.clear()
        services = APIServices(
            self.clock, Slices(self.clock), self.verbs, EventWatch(LiveEvents()).watch, MetricsPage(None), list,  # type: ignore[arg-type]
        )

        def authenticate(request: object, *, changes: bool) -> Deferred[APIUser]:
            return succeed(user)

        root = Folder()
        add_resources(root, services, authenticate)
        client = Client(BoundedSite(root, self.clock), self.clock)
        if row.changes:
            client.ask("POST", f"/api/v1/{row.path}", json.dumps(arguments).encode(), **{"Content-Type": "application/json"})
        else:
            given = {name: str(value).lower() if isinstance(value, bool) else value for name, value in arguments.items()}
            client.get(f"/api/v1/{row.path}?{urlencode(given, doseq=True)}")
        return bool(self.asked)

    def test_the_same(self) -> None:
        """A member of the group and a read-only user have exactly the same permissions, with any arguments. An operator has all."""
        number = 0
        for name, row in TABLE.items():
            for arguments in questions(row):
                expected = is_read_only(name, arguments)
                self.assertEqual(expected, self.on_the_socket(member, name, arguments), (name, arguments))
                self.assertEqual(expected, self.over_http(APIUser("bob", operator=False, local=False), row, arguments), (name, arguments))
                self.assertTrue(self.on_the_socket(operator, name, arguments), (name, arguments))
                self.assertTrue(self.over_http(APIUser(), row, arguments), (name, arguments))
                number += 1
        self.assertGreater(number, len(TABLE) + 20)

    def test_members_without_a_table(self) -> None:
        """Members of a group have no permissions if no table is given."""
        protocol = AdminFactory(self.verbs, self.clock, identify=member).buildProtocol(None)
        assert protocol is not None
        protocol.makeConnection(StringTransport())
        protocol.dataReceived(b'{"verb": "status"}\n')
        self.assertEqual([], self.asked)
        protocol.connectionLost()


class CallerTests(SynchronousTestCase):
    """Tests of the identity of the process at the other end."""

    def test_operators(self) -> None:
        """Root and the gateway's own user are operators."""
        self.assertTrue(operator(None).is_operator and Caller(1, 0, 0).is_operator)
        self.assertFalse(member(None).is_operator)

    def test_kernel(self) -> None:
        """The kernel gives the user at the other end."""
        one, other = socket.socketpair()
        with one, other:
            self.assertEqual(Caller(os.getpid(), os.geteuid(), os.getegid()), caller_of(one))
