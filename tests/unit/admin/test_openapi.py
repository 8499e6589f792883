"""Tests of the OpenAPI document against the code: every verb, every argument that a verb reads, and the shapes of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NotRequired, TypedDict

from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.openapi import document, schema
from s2sgw.admin.server import Rows, called
from s2sgw.admin.verb_table import ROWS, TABLE
from s2sgw.composition.gateway import build_gateway
from s2sgw.peerdb.keys import RememberedKey
from s2sgw.peerdb.peer_records import PeerRecords
from s2sgw.peerdb.pending import PendingCertificate
from s2sgw.runtime.preflight import check_configuration
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.ending import Cause, Ending
from tests.support.certificates import shared_root
from tests.support.fakes import ThreadlessReactor
from tests.support.json_schema import faults
from tests.support.peer_database import database
from tests.unit.composition.test_reconfiguration import FolderCase


class Recorded(Mapping[str, Any]):
    """Arguments that record which of them a verb reads."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return self.given[key]

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return self.given.get(key, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self.given)

    def __len__(self) -> int:
        return len(self.given)


class DocumentTests(FolderCase):
    """Tests of the verbs of a real gateway against the document."""

    def setUp(self) -> None:
        super().setUp()
        self.also('[dns.static]\n"peer.example" = "127.0.0.1:9"\n')
        self.patch(PeerRecords, "at", lambda state, deliver, limit, is_listed, shared: PeerRecords(database(limit=limit), is_listed))
        self.gateway = build_gateway(check_configuration(self.path).config, ThreadlessReactor())
        self.addCleanup(self.gateway.peer_records.database.close)
        self.document = document()
        certificate = shared_root().issue(dns=["peer.example"]).chain[0].public_bytes(Encoding.DER)
        key = Fingerprint.of(certificate)
        self.gateway.record.refused("inbound", "federation", ("peer.example", "example.org"), "192.0.2.1:5", Ending(Cause.UNKNOWN_ISSUER, "x"))
        records = self.gateway.peer_records
        records.pending_certificates.hold(PendingCertificate(
            "peer.example", key, 1.0, 2.0, 1, "inbound", "example.org", "192.0.2.1:5", "unknown-issuer", ("x",), {}, (certificate,),
        ))  # fmt: skip
        records.keys.learn(RememberedKey("peer.example", key, "first-use", 1.0, certificate=certificate))

    def ask(self, name: str, given: dict[str, Any]) -> tuple[Any, set[str]]:
        """Return the answer of a verb, and the arguments that it read."""
        arguments = Recorded(given)
        asked: Deferred[Any] = Deferred()
        asked.addCallback(lambda _: called(self.gateway.verbs[name], arguments))
        asked.callback(None)
        for _ in range(20):
            self.gateway.reactor.advance(0)
        result = self.successResultOf(asked)
        return list(result) if isinstance(result, Rows) else result, arguments.read - {"by"}

    def schema_of(self, name: str) -> dict[str, Any]:
        method = "post" if TABLE[name].changes else "get"
        operation = self.document["paths"][f"/api/v1/{TABLE[name].path}"][method]
        found: dict[str, Any] = operation["responses"]["200"]["content"]["application/json"]["schema"]
        return found

    def test_every_verb(self) -> None:
        """The table has each verb of the gateway, and no other."""
        self.assertEqual(set(TABLE), {*self.gateway.verbs, "drain", "console token", "log level"} - {"watch"})  # over HTTP this is /events
        self.assertEqual(len(ROWS), len(self.document["paths"]) - 1)

    def test_answers(self) -> None:
        """Answers have the documented form, and verbs read exactly the listed arguments."""
        peer, target = {"peer": "peer.example"}, {"target": ["peer.example"]}
        for name, given, empty in (
            ("status", {}, False), ("streams", {}, True), ("lanes", peer, True), ("peers", {}, False), ("refusals", {"letter": True}, False),
            ("certs", {}, False), ("pending", peer, False), ("pins list", {}, False), ("queue list", {}, True), ("queue show", target, True),
            ("queue poison", {}, True), ("queue hold", target, False), ("queue list", {}, False), ("queue release", target, False),
            ("queue flush", target, False), ("queue drop", target, False), ("reload", {}, False), ("reload plan", {}, False), ("report", {}, False), ("explain", peer, False),
            ("explain", {**peer, "look_up": False}, False),
        ):  # fmt: skip
            answer, read = self.ask(name, given)
            self.assertEqual([], list(faults(answer, self.schema_of(name), self.document)), name)
            self.assertEqual(set(), read - {each.name for each in TABLE[name].parameters}, name)
            self.assertEqual(empty, answer == [], name)

    def test_required(self) -> None:
        """A verb refuses a call without a required argument. An optional one may be left out."""
        for row in ROWS:
            listed = {each.name for each in row.parameters if each.required}
            if row.name in self.gateway.verbs and listed:
                error = self.failureOf(row.name)
                self.assertTrue(any(name in error for name in listed), (row.name, error))

    def failureOf(self, name: str) -> str:
        asked: Deferred[Any] = Deferred()
        asked.addCallback(lambda _: called(self.gateway.verbs[name], {}))
        asked.callback(None)
        return str(self.failureResultOf(asked).value)

    def test_references(self) -> None:
        """Every reference has a target."""
        schemas = self.document["components"]["schemas"]
        for name in references(self.document):
            self.assertIn(name, schemas)

    def test_roles(self) -> None:
        """Verbs that change something, or show users' text, are for operators."""
        roles = {
            operation["operationId"]: operation["x-role"] for path in self.document["paths"].values() for operation in path.values()
        }
        read_only = {name for name, role in roles.items() if role == "read-only"}
        self.assertEqual(
            {
                "status", "streams", "lanes", "peers", "names", "refusals", "certs", "pending", "pins_list", "explain", "deny_list", "queue_list",
                "queue_show", "queue_ages", "watch", "report", "cluster_status",
            },
            read_only,
        )


class SchemaTests(SynchronousTestCase):
    """Tests of the JSON Schema of Python types."""

    def test_kinds(self) -> None:
        """Each kind of value in rows has its schema."""
        schemas: dict[str, Any] = {}
        self.assertEqual({"$ref": "#/components/schemas/Sample"}, schema(Sample, schemas))
        row = schemas["Sample"]
        self.assertEqual((["a", "b", "c"], "One row."), (row["required"], row["description"]))
        self.assertEqual({"anyOf": [{"type": "string"}, {"type": "null"}]}, row["properties"]["a"])
        self.assertEqual({"type": "array", "items": {"type": "object", "additionalProperties": {}}}, row["properties"]["b"])
        self.assertRaises(TypeError, schema, bytes, schemas)

    def test_faults(self) -> None:
        """The checker of these tests finds errors."""
        schemas: dict[str, Any] = {}
        found = {"components": {"schemas": schemas}}
        reference = schema(Sample, schemas)
        good = {"a": None, "b": [{"x": 1}], "c": 1.5}
        self.assertEqual([], list(faults(good, reference, found)))
        for change in ({"a": 1}, {"b": [1]}, {"c": True}, {"d": 1}, {"e": 1}):
            self.assertEqual(1, len(list(faults({**good, **change}, reference, found))), change)
        self.assertEqual(1, len(list(faults({"a": "", "b": []}, reference, found))))


class Sample(TypedDict):
    """One row."""

    a: str | None
    b: list[dict[str, Any]]
    c: float
    d: NotRequired[str]


def references(value: Any) -> Iterator[str]:
    """Yield the names in `$ref`."""
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"].rpartition("/")[2]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)
