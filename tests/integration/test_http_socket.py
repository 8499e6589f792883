"""HTTP on the admin socket of a real gateway, as `curl --unix-socket` uses it."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from s2sgw.admin.openapi import document
from s2sgw.admin.verb_table import TABLE
from tests.integration.test_loopback import LoopbackCase
from tests.support.json_schema import faults


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a UNIX socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("s2sgw", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(str(self._path))


class HTTPSocketTests(LoopbackCase):
    """Two protocols on one socket."""

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = UnixConnection(self.folder / "state" / "admin.sock")
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    async def test_verbs(self) -> None:
        """After a conversation each verb answers as the document says. A change is in the audit log. The line protocol still works."""
        await self.running()
        await self.in_thread(self.converse)
        found = document()
        for path in ("status", "streams", "lanes", "peers", "refusals", "certs", "pending", "pins/list", "queue/list", "explain?peer=peer.example"):
            status, body = await self.in_thread(lambda path=path: self.ask("GET", f"/api/v1/{path}"))  # type: ignore[misc]
            name = path.partition("?")[0].replace("/", " ")
            answer = found["paths"][f"/api/v1/{TABLE[name].path}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
            self.assertEqual((200, []), (status, list(faults(json.loads(body), answer, found))), path)
        held = await self.in_thread(lambda: self.ask("POST", "/api/v1/queue/hold", {"target": ["peer.example"]}))
        self.assertEqual(200, held[0])
        noted = json.loads((self.folder / "state" / "audit.log").read_text().splitlines()[-1])
        self.assertEqual(("queue hold", "admin socket", "peer.example"), (noted["action"], noted["by"], noted["target"]))
        self.assertEqual((200, b"ok\n"), await self.in_thread(lambda: self.ask("GET", "/readyz")))
        self.assertIn(b"s2sgw_streams", (await self.in_thread(lambda: self.ask("GET", "/metrics")))[1])
        self.assertEqual("peer.example", json.loads((await self.in_thread(lambda: self.asked("queue", "list"))).stdout)[0]["peer"])

    async def test_half_closed(self) -> None:
        """A client that sends nothing more (`nc -N`) gets its whole response, and the end of the connection."""
        await self.running()

        def asked() -> bytes:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(20)
                connection.connect(str(self.folder / "state" / "admin.sock"))
                connection.sendall(b"GET /api/v1/report HTTP/1.1\r\nHost: s2sgw\r\n\r\nGET /openapi.json HTTP/1.1\r\nHost: s2sgw\r\n\r\n")
                connection.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: connection.recv(65536), b""))

        answers = await self.in_thread(asked)
        self.assertEqual(2, answers.count(b"HTTP/1.1 200"))
        self.assertTrue(answers.endswith(b"}\n"), answers[-100:])

    async def test_watch(self) -> None:
        """A watcher gets the events of a conversation's streams as they happen."""
        await self.running()

        def watch() -> bytes:
            connection = UnixConnection(self.folder / "state" / "admin.sock")
            connection.request("GET", "/events?peer=peer.example")
            response = connection.getresponse()
            seen = response.readline()
            self.converse()
            while b"data: " not in seen:
                seen = response.readline()
            connection.close()
            return seen

        event = json.loads((await self.in_thread(watch)).removeprefix(b"data: "))
        self.assertEqual("peer.example", event["peer"])
