"""Tests of the `s2sgw` command: requests, output and exit status, with a real admin connection in memory."""

from __future__ import annotations

import errno
import json
import socket
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
from click.testing import CliRunner, Result
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from s2sgw import __version__
from s2sgw.admin import client, verbs
from s2sgw.admin.server import AdminFactory, VerbError
from s2sgw.admin.verb_table import is_read_only
from s2sgw.admin.verbs import CertificateRow, LaneRow, PeerRow, RefusalRow, RefusalsAsked, StatusReport, StreamRow, Views
from s2sgw.cli import check, output, tables
from s2sgw.cli import main as command
from s2sgw.cli.text_table import Screen
from s2sgw.config import ConfigError
from s2sgw.policy import peer_pieces
from s2sgw.runtime import configuration_file, taken_ports
from s2sgw.runtime.owner_access import OwnerFaults
from s2sgw.runtime.taken_ports import TakenPorts
from s2sgw.xmpp.jid import Domain, InvalidJID
from tests.support.admin import member, operator
from tests.support.certificates import leaf_for

STREAM = StreamRow(
    leg="federation", direction="inbound", peer="bücher.example", local="example.org", state="proven", method="EXTERNAL",
    pairs=[["bücher.example", "example.org"]], tls="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", address="192.0.2.1:40000", age=75.0, reasons=[],
    resumption="possible",
)
OTHER = {**STREAM, "peer": "other.example", "direction": "outbound", "method": "dialback"}
BACKEND = {**STREAM, "leg": "backend"}
LANE = LaneRow(
    sender="example.org", recipient="gone.example", direction="outbound", state="backing off", stanzas=3, bytes=2048, oldest=4000.0,
    cause="connection-refused", retry=2.5, blocked="next-hop", full=["disk share"],
)
REFUSAL = RefusalRow(
    at=1_800_000_000.0, direction="inbound", leg="federation", peer="evil.example", local="example.org", address="198.51.100.9",
    layer="pkix", cause="self-signed", detail="said:\x1b[2J\nline", by="us", condition="not-authorized", reasons=["pkix: self-signed"],
    remedy="Use a certificate from a public authority.", times=1, first=1_800_000_000.0, letter="Use a certificate from a public authority.",
)
UNNAMED = {**REFUSAL, "peer": "", "local": "", "address": "", "by": "them", "detail": "", "at": 1_800_000_001.0}
PEER = PeerRow(
    peer="evil.example", inbound=1, outbound=2, methods=["EXTERNAL"], waiting=3, refusals=4,
    last_seen=1_799_000_000.0, last_method="pkix", certificate_until=1_810_000_000.0, last_refusal={"at": 1_800_000_000.0, "layer": "pkix", "cause": "self-signed"}, disabled=["direct-tls"], without=["direct-tls"],
)
CERTIFICATE = CertificateRow(domain="example.org", name="example.org", names=["example.org"], expires=1_800_000_000.0, left=90000.0, fingerprint="00")
STATUS = StatusReport(
    backends=[{
        "address": "127.0.0.1:15269", "kind": "s2s", "domains": ["example.org"], "state": "down", "since": 1_800_000_000.0, "streams": 0,
        "cause": "backend-refused", "detail": "your server 127.0.0.1:15269 refuses connections", "remedy": "Start it.", "view": None,
        "questions": None,
    }],
    alerts=["the job 'queue sweep' has not succeeded for 9 s"],
    version="0.1.0", config="/etc/s2sgw.toml", uptime=7300.0, domains=["example.org"], listeners=[{"purpose": "federation", "endpoint": "tcp:5269"}],
    streams=[{"leg": "federation", "direction": "inbound", "number": 2}],
    stanzas=[{"direction": "inbound", "kind": "message", "outcome": "passed", "number": 5}],
    waiting={"stanzas": 1, "bytes": 2048, "disk_bytes": 4096, "oldest": 3.0}, refusals=4, broken=2,
)
async def no_rows_yet(peer: object) -> Iterator[Any]:
    """Give no rows, later."""
    return iter(())


NO_VIEWS = Views(
    lambda: STATUS, lambda peer: iter(()), no_rows_yet, lambda asked: iter(()), lambda: iter(()), lambda peer: iter(()), lambda prefix: iter(()),
)


def named(name: str) -> str:
    """Return a name as it is compared."""
    try:
        return Domain.parse(name).ascii
    except InvalidJID:
        return name


class AdminSocket:
    """A socket whose other end is the gateway's own admin protocol."""

    factory: AdminFactory
    clock: Clock
    failure: OSError | None = None
    hangs_up = False
    connected_to = ""

    def __init__(self, family: int) -> None:
        self.transport = StringTransport()
        protocol = self.factory.buildProtocol(None)
        assert protocol is not None
        self.protocol = protocol
        self.protocol.makeConnection(self.transport)

    def __enter__(self) -> AdminSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.protocol.connectionLost()

    def settimeout(self, seconds: float) -> None:
        """Do nothing: the kernel applies the time limit."""

    def connect(self, path: str) -> None:
        type(self).connected_to = path
        if self.failure is not None:
            raise self.failure

    def sendall(self, data: bytes) -> None:
        self.protocol.dataReceived(data)
        self.clock.advance(0)

    def recv(self, most: int) -> bytes:
        if self.hangs_up:
            return b""
        data: bytes = self.transport.value()[: min(most, 50)]
        rest = self.transport.value()[len(data) :]
        self.transport.clear()
        self.transport.write(rest)
        return data


class CommandCase(SynchronousTestCase):
    """Base class with a configuration in a folder of its own, and a gateway that answers with the content of `views`."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.config = self.folder / "s2sgw.toml"
        self.config.write_text('[gateway]\nstate = "here"\ndomains = ["example.org"]\n')
        self.views(streams=[STREAM, OTHER, BACKEND], queues=[LANE], refusals=[REFUSAL, UNNAMED], certificates=[CERTIFICATE], peers=[PEER])
        AdminSocket.failure, AdminSocket.hangs_up = None, False
        self.patch(socket, "socket", AdminSocket)

    def views(self, **rows: list[Any]) -> None:
        def of_peer(kind: str, *keys: str) -> Any:
            """Return the rows of one kind, as the gateway selects them."""
            return lambda peer: (row for row in rows.get(kind, []) if peer is None or any(named(row[key]) == peer.ascii for key in keys))

        def refusals(asked: RefusalsAsked) -> Iterator[Any]:
            self.asked.append(asked)
            return iter(list(of_peer("refusals", "peer")(asked.peer))[-asked.limit:])

        async def queues(peer: Domain | None) -> Iterator[Any]:
            chosen: Iterator[Any] = of_peer("queues", "sender", "recipient")(peer)
            return chosen

        self.asked: list[RefusalsAsked] = []
        views = Views(
            lambda: STATUS, of_peer("streams", "peer"), queues, refusals,
            lambda: iter(rows.get("certificates", [])), of_peer("peers", "peer"),
            lambda prefix: (row["peer"] for row in rows.get("peers", []) if row["peer"].startswith(prefix)),
        )
        AdminSocket.clock = Clock()
        AdminSocket.factory = AdminFactory(
            verbs.verbs(views), AdminSocket.clock, identify=operator, is_read_only=is_read_only,
        )

    def run_command(self, *words: str) -> Result:
        return CliRunner().invoke(command.main, [*words, "--config", str(self.config)])

    def json_of(self, *words: str, status: int = 0) -> Any:
        result = self.run_command(*words, "--json")
        self.assertEqual(status, result.exit_code, result.output)
        return json.loads(result.stdout)


class AskingTests(CommandCase):
    def test_finds_the_socket(self) -> None:
        """The socket is in the state directory of the configuration, which is relative to the file."""
        self.run_command("status")
        self.assertEqual(str(self.folder.absolute() / "here" / "admin.sock"), AdminSocket.connected_to)

    def test_default_state(self) -> None:
        """Without `state` the default applies."""
        self.config.write_text("")
        self.run_command("status")
        self.assertEqual(str(self.folder.absolute() / "state" / "admin.sock"), AdminSocket.connected_to)

    def test_a_broken_file_is_no_obstacle(self) -> None:
        """A gateway can be asked while its file has an unknown key."""
        self.config.write_text('[gateway]\nstate = "here"\nfrobnicate = 1\n')
        self.assertEqual(0, self.run_command("status").exit_code)

    def test_not_running(self) -> None:
        """Without a socket, without a process behind it, or if the gateway ends, the status is 3."""
        for failure in (FileNotFoundError(2, "No such file or directory"), ConnectionRefusedError(111, "Connection refused")):
            AdminSocket.failure = failure
            result = self.run_command("status")
            self.assertEqual(3, result.exit_code)
            self.assertIn("no gateway is running here", result.output)
        AdminSocket.failure, AdminSocket.hangs_up = None, True
        self.assertEqual(3, self.run_command("status").exit_code)

    def test_not_running_in_json(self) -> None:
        """The status is the same with JSON."""
        AdminSocket.failure = FileNotFoundError(2, "No such file or directory")
        self.assertFalse(self.json_of("status", status=3)["ok"])

    def test_may_not_ask(self) -> None:
        """If the socket belongs to another user, or the gateway does not answer, the status is 4, with a text."""
        for failure, words in ((PermissionError(13, "Permission denied"), "permission denied"), (TimeoutError(), "does not answer")):
            AdminSocket.failure = failure
            result = self.run_command("status")
            self.assertEqual(4, result.exit_code)
            self.assertIn(words, result.output)

    def test_member_of_the_group(self) -> None:
        """A member of the group may read. Other requests end with status 4."""
        AdminSocket.factory.identify = member
        self.assertEqual(0, self.run_command("status").exit_code)
        result = self.run_command("drain")
        self.assertEqual(2, result.exit_code)  # this gateway has no such verb, which is reported first

    def test_no_configuration(self) -> None:
        """Without a file, with invalid TOML, or with a state that is not a path, the status is 2, with a text."""
        for text, words in (("state = [", "not valid TOML"), ("[gateway]\nstate = 1", "must be a path"), ("gateway = 1", "must be a path")):
            self.config.write_text(text)
            result = self.run_command("status")
            self.assertEqual(2, result.exit_code)
            self.assertIn(words, result.output)
        self.config.unlink()
        self.assertIn("cannot be read: No such file", self.run_command("status").output)

    def test_very_many_peers(self) -> None:
        """In a long file, sections of peers are not read. An error in the rest is told with its line in the file."""
        self.patch(peer_pieces, "LONG", 0)
        peers = "".join(f'[peers."{name}.example"]\nhold = "1m"\n' for name in "abcd")
        text = '[gateway]\nstate = "elsewhere"\n' + peers.replace('"b.example"]', '"b.example"]\nhold =') + "[admin]\n"
        self.config.write_text(text)
        self.assertEqual(self.config.absolute().parent / "elsewhere" / "admin.sock", client.socket_path(self.config))
        self.config.write_text('[gateway]\nstate = "elsewhere"\n[peers."a.example"\nhold = \n  [admin]\nsocket = "a.sock"\n[[backend]\n')
        self.assertEqual(self.config.absolute().parent / "a.sock", client.socket_path(self.config))
        for wrong in ('[gateway]\nstate = \n', '[peers\n', '[gateway]\n[gateway]\n'):
            self.config.write_text(wrong)
            self.assertEqual("configuration", self.assertRaises(client.RequestFailed, client.socket_path, self.config).kind)
        self.config.write_text(text.replace("\nhold =\n", "\n") + 'socket =\n')
        error = self.assertRaises(client.RequestFailed, client.socket_path, self.config)
        self.assertIn("at line 12, column 9", str(error))

    def test_usage(self) -> None:
        """An unknown verb, an unknown option, and a PEER that is not a domain have the status 2."""
        self.assertEqual(2, self.run_command("frobnicate").exit_code)
        self.assertEqual(2, self.run_command("status", "--frobnicate").exit_code)
        self.assertEqual(2, self.run_command("streams", "not a domain").exit_code)
        self.assertEqual(2, self.run_command("streams", "--limit", "0").exit_code)

    def test_suggestion(self) -> None:
        """For an unknown verb the closest ones are suggested, also in a JSON error."""
        for word, words in (("stats", "Did you mean 'status'"), ("stream", "Did you mean 'streams'"), ("queu", "Did you mean 'queue'?")):
            self.assertIn(words, self.run_command(word).output)
        self.assertIn("Did you mean", json.loads(self.run_command("--json", "stats").output)["error"])
        self.assertNotIn("Did you mean", self.run_command("xyzzy").output)

    def test_an_answer_without_end(self) -> None:
        """An endless answer of the gateway is not read forever."""
        self.patch(client, "ANSWER_BYTES", 10)
        self.assertEqual(3, self.run_command("status").exit_code)

    def test_no_room_for_the_answer(self) -> None:
        """If the standard output takes no more, because its disk is full, one line says so, and the status is 4."""

        def full(text: str = "", err: bool = False, **options: Any) -> None:
            if not err:
                raise OSError(errno.ENOSPC, "No space left on device")
            told.append(text)

        told: list[str] = []
        self.patch(click, "echo", full)
        for words in (["status"], ["status", "--json"], ["frobnicate", "--json"]):
            self.assertEqual(4, self.run_command(*words).exit_code, words)
        self.assertEqual(["the answer cannot be written: No space left on device"] * 3, told)

    def test_closed_output(self) -> None:
        """A caller may have closed the standard output."""
        self.patch(sys, "stdout", None)
        self.assertEqual(Screen(None, bold=False), output.this_screen())

    def test_several_lines(self) -> None:
        """An error in several lines keeps them. Lines after the first one are indented, whatever they hold."""
        said: list[str] = []
        self.patch(click, "echo", lambda text, err: said.append(text))
        error = self.assertRaises(SystemExit, output.fail, "s2sgw.toml cannot be used:\n  line 3: no\x1b\nline 4: no", "usage", None)
        self.assertEqual(2, error.code)
        self.assertEqual(["s2sgw.toml cannot be used:\n  line 3: no\\x1b\n  line 4: no"], said)

    def test_version(self) -> None:
        """--version prints the version."""
        self.assertEqual(f"s2sgw {__version__}\n", CliRunner().invoke(command.main, ["--version"]).output)

    def test_verbs(self) -> None:
        """Every verb is documented, has a description, and accepts --json."""
        contract = {
            "run", "check", "status", "streams", "lanes", "peers", "refusals", "pending", "pins", "queue", "explain", "replay", "probe", "certs",
            "reload", "drain", "setup", "close", "deny", "forget", "watch", "log", "config", "schema", "report", "cluster", "version", "console",
        }
        self.assertEqual(set(), set(commands_of(command.main)) - contract)
        for name, verb in commands_of(command.main).items():
            self.assertTrue(verb.help, name)
            for each in commands_of(verb).values() or [verb]:
                if each.name not in ("run", "config", "systemd", "man", "completion", "schema"):  # these print no rows, or always JSON
                    self.assertIn("as_json", [parameter.name for parameter in each.params], each.name)


def commands_of(group: click.Command) -> dict[str, click.Command]:
    """Return the commands of a group by name, or none if `group` is not a group."""
    if not isinstance(group, click.Group):
        return {}
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: each for name, each in found.items() if each is not None}


class HelpTests(SynchronousTestCase):
    """Tests of the texts of `--help`."""

    def commands(self) -> Iterator[tuple[list[str], click.Command]]:
        """Return every command, with the words that call it."""
        pending: list[tuple[list[str], click.Command]] = [([], command.main)]
        for words, each in pending:
            yield words, each
            pending += [([*words, name], inner) for name, inner in commands_of(each).items()]

    def test_whole(self) -> None:
        """No line of a list of commands is cut off at 80 columns."""
        for words, _ in self.commands():
            shown = CliRunner().invoke(command.main, [*words, "--help"], terminal_width=80).output
            lists = shown.partition("\nOptions:\n")[2].partition("-h, --help")[2]
            self.assertNotIn("...\n", lists, words)
            self.assertEqual([], [line for line in shown.splitlines() if len(line) > 80], words)

    def test_sentences(self) -> None:
        """The text of each command and option ends like a sentence."""
        for words, each in self.commands():
            options = [option.help or "" for option in each.params if isinstance(option, click.Option) and not option.hidden]
            for text in (each.help or "", *options):
                self.assertRegex(text.split("\n")[0], r"[.:]$", words)


class JSONShapeTests(CommandCase):
    """The output of --json-v1 has one shape for results and errors. The errors of --json have it too."""

    def test_result(self) -> None:
        """A result is in an object with the version."""
        self.assertEqual({"version": 1, "ok": True, "result": [CERTIFICATE]}, json.loads(self.run_command("certs", "--json-v1").stdout))

    def test_errors(self) -> None:
        """Every error gives the reason and the exit status, also a usage error."""
        AdminSocket.failure = PermissionError(13, "Permission denied")
        for form in ("--json", "--json-v1"):
            for words, kind, status in ((["status"], "denied", 4), (["frobnicate"], "usage", 2), (["status", "--nonsense"], "usage", 2), (["streams", "--limit", "0"], "usage", 2)):
                result = self.run_command(*words, form)
                answer = json.loads(result.stdout)
                self.assertEqual((1, False, kind, status, status), (answer["version"], answer["ok"], answer["kind"], answer["status"], result.exit_code), words)
                self.assertTrue(answer["error"])

    def test_help(self) -> None:
        """--help with --json prints the help."""
        result = self.run_command("status", "--json", "--help")
        self.assertEqual(0, result.exit_code)
        self.assertIn("Usage:", result.stdout)


class OptionPlaceTests(CommandCase):
    """Tests of `--config` and `--json` before and behind the verb."""

    def run_before(self, *words: str) -> Result:
        return CliRunner().invoke(command.main, ["--config", str(self.config), "--json", *words])

    def test_before_the_verb(self) -> None:
        """The options before a verb, or a group, apply to the verb."""
        for words in (["status"], ["lanes"], ["queue", "list"]):
            with self.subTest(words):
                behind = self.run_command(*words, "--json")
                self.assertEqual((behind.exit_code, behind.output), (self.run_before(*words).exit_code, self.run_before(*words).output))
                self.assertIn(behind.output[:1], "[{")

    def test_behind_the_verb_counts(self) -> None:
        """If an option is given twice, the one behind the verb applies. An option before the verb overrides the environment."""
        other = str(self.config.with_name("other.toml"))
        both = CliRunner().invoke(command.main, ["--config", other, "status", "--config", str(self.config)])
        self.assertEqual(0, both.exit_code, both.output)
        environment = CliRunner(env={"S2SGW_CONFIG": other}).invoke(command.main, ["--config", str(self.config), "status"])
        self.assertEqual(0, environment.exit_code, environment.output)
        self.assertNotEqual(0, CliRunner(env={"S2SGW_CONFIG": other}).invoke(command.main, ["status"]).exit_code)


class AnswerTests(CommandCase):
    def test_status(self) -> None:
        """The status is printed as text and as JSON."""
        self.assertEqual(STATUS, self.json_of("status"))
        output = self.run_command("status").output
        for words in ("running for 2 h 1 min on /etc/s2sgw.toml", "tcp:5269 (federation)", "2 inbound on the federation leg",
                      "1 stanza, 2.0 KiB in memory, 4.0 KiB on disk, the oldest for 3.0 s", "refusals   4", "inbound    message  passed", "ALERT      the job 'queue sweep' has not"):
            self.assertIn(words, output)

    def test_streams(self) -> None:
        """All streams are printed, or those of a peer in any spelling. The status is 1 if it has none."""
        self.assertEqual([STREAM, OTHER, BACKEND], self.json_of("streams"))
        self.assertEqual([OTHER], self.json_of("streams", "OTHER.example"))
        self.assertEqual([STREAM, BACKEND], self.json_of("streams", "xn--bcher-kva.example"))
        self.assertEqual([], self.json_of("streams", "none.example", status=1))
        self.assertEqual([STREAM], self.json_of("streams", "--limit", "1"))
        output = self.run_command("streams").output
        self.assertIn("1 min 15 s", output)
        self.assertIn("bücher.example", output)

    def test_lanes(self) -> None:
        """The waiting stanzas to and from a peer are printed."""
        self.assertEqual([LANE], self.json_of("lanes", "gone.example"))
        self.assertEqual([LANE], self.json_of("lanes", "example.org"))
        output = self.run_command("lanes").output
        for words in ("backing off", "2.0 KiB", "1 h 6 min", "connection-refused", "2.5 s", "next-hop", "disk share"):
            self.assertIn(words, output)

    def test_peers(self) -> None:
        """One row is printed for each peer, with the gateway's counts."""
        self.assertEqual([PEER], self.json_of("peers"))
        output = self.run_command("peers").output
        for words in ("evil.example", "EXTERNAL", "2027-05-11", "2027-01-15 08:00Z pkix/self-signed", "direct-tls"):
            self.assertIn(words, output)

    def test_refusals(self) -> None:
        """The last refusals are printed with the remedy. A stranger's text is escaped."""
        self.assertEqual([UNNAMED], self.json_of("refusals", "--limit", "1"))
        self.assertEqual([REFUSAL], self.json_of("refusals", "evil.example"))
        self.assertFalse(any(each.letters for each in self.asked))
        output = self.run_command("refusals").output
        self.assertIn("pkix/self-signed: said:\\x1b[2J\\x0aline", output)
        self.assertIn("remedy: Use a certificate", output)
        self.assertIn("peer (unnamed)", output)
        self.assertIn("(by the peer)", output)
        self.assertNotIn("\x1b", output)

    def test_json_cannot_steer_a_terminal(self) -> None:
        """JSON is in ASCII with escaped control characters."""
        output = self.run_command("refusals", "--json").output
        self.assertTrue(output.isascii())
        self.assertNotIn("\x1b", output)

    def test_markup_is_text(self) -> None:
        """A name that looks like markup of the table library is printed unchanged."""
        self.views(streams=[{**STREAM, "peer": "[bold red]x[/]"}])
        self.assertIn("[bold red]x[/]", self.run_command("streams").output)

    def test_unknown_peer(self) -> None:
        """`peers` names the PEER that is not known."""
        self.views(peers=[])
        self.assertIn("No peer is known", self.run_command("peers").output)
        self.assertIn("gone.example is not known", self.run_command("peers", "gone.example").output)

    def test_a_cell_cannot_steer_a_terminal(self) -> None:
        """Characters that are not printable are escaped in a table too."""
        self.views(streams=[{**STREAM, "peer": "x\x1b[2J\u202ey"}])
        self.assertIn("x\\x1b[2J\\u202ey", self.run_command("streams").output)

    def test_certificates(self) -> None:
        """The status is 1 if a domain has no certificate, or an expired one."""
        self.assertEqual([CERTIFICATE], self.json_of("certs"))
        self.assertIn("1 d 1 h", self.run_command("certs").output)
        self.views(certificates=[{**CERTIFICATE, "left": -90000.0}])
        result = self.run_command("certs")
        self.assertEqual(1, result.exit_code)
        self.assertIn("-1 d 1 h", result.output)
        self.views(certificates=[{**CERTIFICATE, "name": None, "names": [], "expires": None, "left": None}])
        self.assertEqual(1, self.run_command("certs").exit_code)

    def test_nothing_to_tell(self) -> None:
        """For an idle gateway a text is printed, and the status is 0."""
        self.views()
        for verb, words in (("streams", "No stream"), ("lanes", "Nothing is queued"), ("peers", "No peer"), ("refusals", "no refusals"), ("certs", "no local")):
            result = self.run_command(verb)
            self.assertEqual(0, result.exit_code)
            self.assertIn(words, result.output)

    def test_what_the_verbs_refuse(self) -> None:
        """The admin socket itself refuses a bad limit and a peer that is not a name."""
        registry = verbs.verbs(NO_VIEWS)
        for arguments in ({"limit": 0}, {"limit": True}, {"limit": "1"}, {"limit": 10**9}, {"peer": 1}, {"peer": "a b"}):
            self.assertRaises(VerbError, registry["streams"], arguments)

    def test_letter(self) -> None:
        """The letter of the last refusal is printed; with --json one for each row. It is made only on request."""
        self.assertIn("Use a certificate", self.run_command("refusals", "evil.example", "--letter").output)
        self.json_of("refusals", "--letter")
        self.assertEqual([(1, True), (1000, True)], [(each.limit, each.letters) for each in self.asked])
        self.assertRaises(VerbError, verbs.verbs(NO_VIEWS)["refusals"], {"letter": 1})

    def test_a_claimed_name_that_is_no_domain(self) -> None:
        """A name claimed by a stranger need not be a domain."""
        self.views(refusals=[{**REFUSAL, "peer": "no domain"}])
        self.assertEqual([], self.json_of("refusals", "evil.example", status=1))

    def test_gibibytes(self) -> None:
        """The sizes of large lanes are printed in large units."""
        self.views(queues=[{**LANE, "bytes": 3 * 1024**3, "stanzas": 0, "cause": None, "retry": None, "oldest": 5e5}])
        self.assertIn("3.0 GiB", self.run_command("lanes").output)


class PortTests(SynchronousTestCase):
    """The ports of a node, which `check` binds for a moment."""

    def test_of_a_node(self) -> None:
        """A port that must be shared is an error, another one that is in use a warning. A node that runs has its ports itself."""
        folder = Path(self.mktemp())
        folder.mkdir()
        config: Any = SimpleNamespace(cluster=SimpleNamespace(node="a"), path=folder / "a.toml")
        found = TakenPorts([], ["in use"])
        self.patch(taken_ports, "taken_ports", lambda _: found)
        self.patch(check, "socket_path", lambda _: folder / "absent")
        self.assertEqual(["in use"], check._ports_in_use(config))
        found = TakenPorts(["add reuseport"], ["in use"])
        self.assertEqual(["add reuseport"], self.assertRaises(ConfigError, check._ports_in_use, config).complaints)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "s"))
            listener.listen()
            self.patch(check, "socket_path", lambda _: folder / "s")
            self.assertEqual([], check._ports_in_use(config))
        self.assertEqual(["add reuseport"], self.assertRaises(ConfigError, check._ports_in_use, config).complaints)

    def test_of_a_node_that_hangs(self) -> None:
        """A node that accepts no more connections, or none of this user, runs. It is not waited for."""
        folder = Path(self.mktemp())
        folder.mkdir()
        config: Any = SimpleNamespace(cluster=SimpleNamespace(node="a"), path=folder / "a.toml")
        self.patch(check, "socket_path", lambda _: folder / "s")
        self.patch(taken_ports, "taken_ports", lambda _: self.fail("its own ports were tried"))
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
            listener.bind(str(folder / "s"))
            listener.listen(0)
            first.connect(str(folder / "s"))
            self.assertEqual([], check._ports_in_use(config))

    def test_of_a_gateway_alone(self) -> None:
        """A gateway alone may be checked while the server that it is to stand in front of has its port."""
        self.assertEqual([], check._ports_in_use(cast(Any, SimpleNamespace(cluster=SimpleNamespace(node=None)))))


class ConfigurationTests(CommandCase):
    """Tests of `check` and `setup`, which need no running gateway."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(socket, "socket", None)
        certificates = self.folder / "certs"
        certificates.mkdir()
        self.leaf(certificates, "example.org")
        self.config.write_text(
            '[gateway]\nstate = "here"\ndomains = ["example.org"]\n[tls]\ncertificates = "certs"\n'
            '[backend]\naddress = "127.0.0.1:15269"\ndns_view = "127.53.0.1:53"\n[dns]\nservers = ["192.0.2.53"]\n'
        )

    def leaf(self, folder: Path, domain: str) -> None:
        issued = leaf_for(domain)
        (folder / f"{domain}.crt").write_bytes(issued.pem_chain)
        key = folder / f"{domain}.key"
        key.write_bytes(issued.key_pem)
        key.chmod(0o600)

    def test_two_questions(self) -> None:
        """`check` does not leave out one of two options in silence."""
        self.assertIn("use one of them", self.json_of("check", "--live", "--against-running", status=2)["error"])

    def test_values_can_be_copied(self) -> None:
        """A value with backslashes or umlauts is shown as it can stand in the file, by `config` and by a reload."""
        endpoint, domains = "tcp:5269:interface=\\:\\:1", ["bücher.example"]
        self.config.write_text(self.config.read_text() + "[listen]\nendpoint = 'tcp:5269:interface=\\:\\:1'\n")
        shown = self.run_command("config").output
        (line,) = [each for each in shown.splitlines() if each.startswith("listen[0].endpoint")]
        self.assertEqual(endpoint, tomllib.loads(line.partition(".")[2])["endpoint"])
        changes = [{"key": "listen[0].endpoint", "old": None, "new": endpoint}, {"key": "gateway.domains", "old": domains, "new": "it's \\:"}]
        answer = {"config": "x", "warnings": [], "changes": changes, "more_changes": 0, "certificates": [], "closed": []}
        lines = tables.reloaded(answer, Screen(None, bold=False)).splitlines()
        self.assertEqual("  listen[0].endpoint: unset -> 'tcp:5269:interface=\\:\\:1'", lines[1])
        self.assertTrue(lines[2].startswith('  gateway.domains: ["bücher.example"] -> "it'), lines[2])

    def test_unreadable_by_the_gateway(self) -> None:
        """A file that the gateway's user cannot read is an error, as it will be at the start. It is not a warning beside "is good"."""
        faults = [OwnerFaults(["x.key: the gateway's user s2sgw cannot read it"], []), OwnerFaults([], ["the draft"])]
        self.patch(check, "faults_of_owner", lambda config: faults.pop(0))
        found = self.json_of("check", status=2)
        self.assertEqual((False, ["x.key: the gateway's user s2sgw cannot read it"], []), (found["ok"], found["complaints"], found["warnings"]))
        found = self.json_of("check")
        self.assertEqual((True, True), (found["ok"], "the draft" in found["warnings"]))

    def test_good(self) -> None:
        """A good file has the status 0, and no file is made."""
        result = self.run_command("check")
        self.assertEqual(0, result.exit_code, result.output)
        self.assertIn("is good, for example.org", result.output)
        self.assertEqual([], self.json_of("check")["complaints"])
        self.assertFalse((self.folder / "here").exists())

    def test_complaints(self) -> None:
        """All errors are listed, and the status is 2."""
        self.config.write_text('[gateway]\ndomains = []\nfrobnicate = 1\n[log]\nlevel = "loud"\n')
        result = self.run_command("check")
        self.assertEqual(2, result.exit_code)
        for words in ("gateway.domains", "gateway.frobnicate", "log.level"):
            self.assertIn(words, result.output)
        self.assertGreaterEqual(len(self.json_of("check", status=2)["complaints"]), 3)

    def test_certificates(self) -> None:
        """A domain without a certificate is an error too."""
        self.config.write_text(self.config.read_text().replace('["example.org"]', '["example.org", "rooms.example.org"]'))
        result = self.run_command("check")
        self.assertEqual(2, result.exit_code)
        self.assertIn("names rooms.example.org", result.output)

    def test_setup(self) -> None:
        """Only the lines are printed on standard output, and the authority that they trust is written."""
        result = self.run_command("setup", "prosody")
        self.assertEqual(0, result.exit_code, result.output)
        self.assertIn("unbound", result.stdout)
        answer = self.json_of("setup", "prosody", "--local", "example.org")
        self.assertTrue(Path(answer["authority"]).exists())
        self.assertIn(answer["authority"], answer["lines"])

    def test_default_configuration(self) -> None:
        """Without --config the first of the usual places that has a file is used."""
        self.patch(configuration_file, "PLACES", (self.config.with_name("absent.toml"), self.config))
        result = CliRunner().invoke(command.main, ["check"])
        self.assertEqual(0, result.exit_code, result.output)
        self.patch(configuration_file, "PLACES", (self.config.with_name("absent.toml"), self.config.with_name("gone.toml")))
        self.assertIn("absent.toml", CliRunner().invoke(command.main, ["check"]).output)

    def test_setup_authority(self) -> None:
        """The CA is written to the file that the lines name, readable for all. ejabberd's second file is printed alone."""
        copy = self.config.parent / "copy.pem"
        answer = self.json_of("setup", "prosody", "--authority", str(copy))
        self.assertEqual(str(copy.absolute()), answer["authority"])
        self.assertIn(f'cafile = "{copy.absolute()}"', answer["lines"])
        self.assertEqual(0o644, copy.stat().st_mode & 0o777)
        kept = self.json_of("setup", "prosody")["authority"]
        self.assertEqual(Path(kept).read_bytes(), copy.read_bytes())
        self.assertEqual(2, self.run_command("setup", "prosody", "--authority", str(copy / "no" / "folder")).exit_code)
        inetrc = self.run_command("setup", "ejabberd", "--inetrc").stdout
        self.assertTrue(inetrc.startswith("%"), inetrc)
        self.assertNotIn("listen:", inetrc)
        self.assertEqual(2, self.run_command("setup", "prosody", "--inetrc").exit_code)

    def test_setup_that_cannot_be(self) -> None:
        """An unknown server, a domain that is not ours, no domain at all, and a broken file have the status 2."""
        self.assertEqual(2, self.run_command("setup", "frobd").exit_code)
        self.assertEqual(2, self.run_command("setup", "prosody", "--local", "other.example").exit_code)
        self.assertEqual(2, self.run_command("setup", "prosody", "--local", "a b").exit_code)
        self.config.write_text("")
        self.assertEqual(2, self.run_command("setup", "prosody").exit_code)

    def test_certificates_in_the_same_breath(self) -> None:
        """All errors are listed at once: those of the file, and those of the certificates in its folder."""
        certificates = self.folder / "certs"
        certificates.mkdir(exist_ok=True)
        (certificates / "a.crt").write_text("no certificate")
        self.config.write_text('[gateway]\ndomains = ["example.org"]\n[tls]\nminimum = "1.1"\n')
        result = self.run_command("check")
        self.assertEqual(2, result.exit_code)
        self.assertIn("tls.minimum", result.output)
        self.assertIn("a.crt", result.output)
        (certificates / "a.crt").unlink()
        self.config.write_text('[gateway]\ndomains = ["example.org", "other.example"]\n[tls]\nminimum = "1.1"\n')
        output = self.run_command("check").output
        self.assertIn("2 errors", output)
        self.assertIn("names other.example", output)

    def test_quiet(self) -> None:
        """--quiet prints nothing for a good file, and every error of another one."""
        result = self.run_command("check", "--quiet")
        self.assertEqual((0, ""), (result.exit_code, result.stdout))
        self.config.write_text("[gateway]\n")
        self.assertIn("1 error", self.run_command("check", "--quiet").output)
