"""The architecture: imports run down the floors, pure floors are pure, names are standard and have one meaning, dependencies are declared.

Imports for types alone (`if TYPE_CHECKING`) and inside functions count like any other.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.project.figures import downcasts
from tests.project.source_tree import (
    PACKAGE,
    ROOT,
    at_import,
    circles,
    classes,
    import_graph,
    imports,
    levels,
    module_name,
    package_of,
    sources,
    tree,
)

#: Each package -> its allowed imports, beside itself: packages, or single modules of one (docs/architecture.md, "The packages").
MAY_IMPORT = {
    "xmpp": "",
    "storage": "",
    "sasl": "xmpp",
    "stream": "sasl xmpp",
    "trust": "xmpp",
    "queue": "xmpp",
    "spool": "storage xmpp",
    "reporting": "storage xmpp",
    "policy": "trust xmpp",
    "net": "storage trust stream xmpp",
    "delivery": "queue spool reporting stream storage xmpp",
    "config": "policy net.endpoint_strings sasl spool storage stream xmpp",
    "peerdb": "policy reporting storage trust xmpp",
    "ingress": "delivery policy reporting queue stream xmpp",
    "cluster": "ingress delivery.holds peerdb policy trust spool reporting queue xmpp",
    "authentication": "peerdb config policy net storage trust sasl stream xmpp",
    "s2s": "authentication ingress delivery reporting policy net stream queue xmpp",
    "backend": "s2s ingress delivery net reporting stream storage trust queue xmpp",
    "runtime": "s2s authentication ingress peerdb config delivery net policy reporting storage stream trust queue xmpp",
    "admin": "runtime backend s2s authentication ingress peerdb config delivery net policy reporting spool stream trust queue xmpp",
    "console": "admin config net policy reporting xmpp",
    "composition": "cluster admin runtime backend s2s authentication ingress peerdb config delivery net policy reporting spool stream trust queue xmpp",
    "cli": "composition admin config reporting runtime backend storage peerdb net policy stream trust xmpp",
    "service": "composition console admin runtime backend s2s peerdb config net reporting spool xmpp",
}
#: The maximum number of modules on one chain of imports in a package.
LEVELS = 7

#: Modules and packages without input, output, clock or chance: all of that comes in by argument.
PURE = ("xmpp", "sasl", "stream", "trust", "policy", "queue")
PURE_MODULES = (
    "cluster.door", "cluster.home_table", "cluster.lane_log", "cluster.members", "cluster.node_records", "cluster.records",
    "cluster.spool_room",
)  # fmt: skip
IMPURE_MODULES = {
    "OpenSSL", "asyncio", "io", "os", "random", "select", "shutil", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading",
    "time", "twisted",
}
FORBIDDEN = ("twisted.words", "treq", "klein", "lxml")
FORBIDDEN_NAMES = {"utils", "util", "helper", "helpers", "manager", "handler", "processor", "engine", "misc", "common"}
#: File names that are terms: the replicated store of a cluster is called the engine.
TERMS = ["s2sgw/cluster/engine.py"]
#: Class names that several modules define with one meaning: the same phase in the engine of another role.
SAME_MEANING = {"AwaitFeatures", "AwaitHeader", "Authenticating", "Handshaking", "Idle", "Judging"}
#: Modules without tests, by the reason.
WITHOUT_TESTS = {
    "types, tables and constants alone": (
        "admin.answer_types admin.protocol admin.responses cluster.requests queue.evidence stream.events stream.options trust.evidence "
        "xmpp.mechanisms xmpp.namespaces"
    ),
    "protocols, and classes that do nothing": "delivery.next_hop delivery.outbound_stream peerdb.stores s2s.identity s2s.legs spool.interface",
    "a call of the library, or of the system, alone": "cli.reactor_call runtime.system_clock xmpp.limits xmpp.wall_clock",
}
#: Modules whose tests have another name, because several modules are one thing to their users: module -> its tests.
TESTED_ELSEWHERE = {
    # the interfaces of the admin socket
    "admin.client": "unit/cli/test_main",
    "admin.event_flow": "unit/admin/test_server",
    "admin.event_watch": "unit/admin/test_server",
    "admin.provenance": "unit/admin/test_explain",
    "admin.trust_verbs": "integration/test_loopback",
    "admin.verb_table": "unit/admin/test_permissions",
    "admin.verbs": "unit/admin/test_views",
    "console.access": "unit/console/test_site",
    # a verdict, with its evidence and assessment
    "authentication.assessment": "unit/authentication/test_judge",
    "cluster.failures": "unit/cluster/test_removals",
    "cluster.peer_spool": "unit/cluster/test_spool",
    "cluster.quarantine": "unit/cluster/test_spool",
    "cluster.spool_room": "unit/cluster/test_spool",
    "cluster.turn_slice": "unit/cluster/test_spool",
    # a command is tested as users call it
    "cli.check": "unit/cli/test_main",
    "cli.config": "unit/cli/test_main",
    "cli.lazy_group": "unit/cli/test_main",
    "cli.live_check": "unit/cli/test_probe",
    "cli.look": "unit/cli/test_main",
    "cli.output": "unit/cli/test_main",
    "cli.report": "unit/admin/test_report_verb",
    "cli.run": "unit/cli/test_main",
    "cli.setup_commands": "unit/cli/test_setup_files",
    "cli.tables": "unit/cli/test_main",
    "cli.trust_tables": "unit/cli/test_trust",
    "cli.version": "unit/cli/test_main",
    # the composition is tested as a whole
    "composition.agents": "integration/test_service",
    "composition.configuration": "unit/composition/test_reconfiguration",
    "composition.connections": "integration/test_service",
    "composition.custody": "integration/test_service",
    "composition.federation": "integration/test_service",
    "composition.gateway": "integration/test_service",
    "composition.live_check": "unit/runtime/test_live_check",
    "composition.operator": "integration/test_service",
    "composition.probe": "unit/cli/test_probe",
    "composition.server_leg": "unit/composition/test_backends",
    "composition.transports": "integration/test_service",
    "service": "integration/test_service",
    # the sections of a configuration, and the commands that show them
    "config.effective": "unit/cli/test_main",
    "config.schema": "unit/cli/test_schema",
    "config.sections": "unit/config/test_loading",
    # the parts of a delivery agent, and of custody
    "delivery.agent_states": "unit/delivery/test_agent",
    "delivery.holds": "unit/admin/test_queue_verbs",
    "delivery.queue_table": "unit/delivery/test_queue",
    "delivery.resume_wait": "unit/delivery/test_agent",
    "delivery.services": "unit/delivery/test_queue",
    # one base of several protocols
    "net.handover": "unit/net/test_proxy_protocol",
    "net.proxy_negotiation": "unit/net/test_socks",
    # the steps of a probe, of the checks and of a stop
    "runtime.probe_steps": "unit/runtime/test_probe",
    "runtime.probe_stream": "unit/runtime/test_probe",
    "runtime.shutdown": "integration/test_shutdown",
    "runtime.stream_closing": "integration/test_shutdown",
    # the streams of both roles, tested with their owners
    "s2s.initiated_streams": "unit/runtime/test_policy_change",
    "s2s.resumption": "integration/test_two_gateways",
    "s2s.stream_provider": "unit/s2s/test_multiplexing",
    "spool.tables": "unit/spool/test_sqlite_spool",
    # one engine for each role
    "stream.dialback_authorization": "unit/stream/test_receiving",
    "stream.initiating_context": "unit/stream/test_initiating",
    "stream.initiating_phases": "unit/stream/test_initiating",
    "stream.receiving_context": "unit/stream/test_receiving",
    "stream.receiving_phases": "unit/stream/test_receiving",
}
#: The import name of a distribution, if it differs from its name.
IMPORT_NAMES = {"nats-py": "nats", "pyopenssl": "OpenSSL", "dnspython": "dns", "zope.interface": "zope"}


class FloorTests(SynchronousTestCase):
    """Allowed imports."""

    def test_every_package_has_its_row(self) -> None:
        """A new folder, or file on the first level, gets a row in the table, or it is in the wrong place."""
        self.assertEqual(set(MAY_IMPORT), {package_of(name) for name in import_graph()} - {""})

    def test_table_runs_down(self) -> None:
        """The table itself allows no circle: each package imports only what has its row above."""
        rows = list(MAY_IMPORT)
        for index, (package, allowed) in enumerate(MAY_IMPORT.items()):
            self.assertEqual([], [other for other in allowed.split() if other.partition(".")[0] not in rows[:index]], package)

    def test_imports(self) -> None:
        """Every import is allowed by the table."""
        wrong = []
        for name, others in import_graph().items():
            allowed = {package_of(name), "", *MAY_IMPORT.get(package_of(name), "").split()}
            strays = [other for other in sorted(others) if not {package_of(other), other.removeprefix("s2sgw.")} & allowed]
            wrong += [f"{name} {other}" for other in strays if package_of(name)]
        self.assertEqual([], wrong)

    def test_no_circles(self) -> None:
        """No module imports itself, over any number of steps."""
        self.assertEqual([], circles())

    def test_levels(self) -> None:
        """No chain of imports inside a package is too long to follow."""
        found = {package: levels(package) for package in MAY_IMPORT}
        self.assertEqual({}, {package: number for package, number in found.items() if number > LEVELS})


class PurityTests(SynchronousTestCase):
    """Forbidden imports."""

    def test_pure_floors(self) -> None:
        """xmpp, sasl, stream, trust, policy, queue and `PURE_MODULES` import no network, no file, no clock, no chance."""
        wrong = []
        for path in sources():
            if path.relative_to(PACKAGE).parts[0] in PURE or module_name(path).removeprefix("s2sgw.") in PURE_MODULES:
                found = {name.split(".")[0] for _, name in imports(ast.walk(tree(path)))}
                wrong += [f"{module_name(path)} {name}" for name in sorted(found & IMPURE_MODULES)]
        self.assertEqual([], wrong)

    def test_no_reactor_at_import(self) -> None:
        """No module imports the reactor at its top level, because twistd has not chosen it yet."""
        paths = [*sources(), *sorted((ROOT / "twisted").rglob("*.py"))]
        wrong = [str(path) for path in paths if any(name == "twisted.internet.reactor" for _, name in imports(at_import(path)))]
        self.assertEqual([], wrong)

    def test_forbidden_imports(self) -> None:
        """No twisted.words (its XMPP builds trees), and no library that imports the reactor by itself."""
        wrong = [
            f"{module_name(path)} {name}"
            for path in sources()
            for _, name in imports(ast.walk(tree(path)))
            if any(name == bad or name.startswith(f"{bad}.") for bad in FORBIDDEN)
        ]
        self.assertEqual([], wrong)

    def test_plugins_is_no_package(self) -> None:
        """No __init__.py is beside the plugin: it would hide Twisted's own plugins."""
        self.assertEqual([], list((ROOT / "twisted").rglob("__init__.py")))


class InterfaceTests(SynchronousTestCase):
    """An object behind an interface is used through that interface only."""

    def test_no_downcasts(self) -> None:
        """No code asks for the class behind a protocol."""
        self.assertEqual([], [f"{path.relative_to(PACKAGE)}:{line} {text}" for path, line, text in downcasts()])


class NameTests(SynchronousTestCase):
    """Names of files and classes."""

    def test_file_names(self) -> None:
        """Files are named by nouns of the standard: no utils, helper, manager, handler, processor, engine, misc."""
        wrong = [str(path.relative_to(ROOT)) for path in sources() if FORBIDDEN_NAMES & set(re.split(r"[_.]", path.stem))]
        self.assertEqual(TERMS, wrong)

    def test_one_meaning(self) -> None:
        """A class, or a name for a type, that other modules can import is defined once."""
        found: dict[str, list[str]] = defaultdict(list)
        for path in sources():
            for node in classes(path):
                if not node.name.startswith("_"):
                    found[node.name].append(module_name(path))
            for each in tree(path).body:
                if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name) and re.fullmatch(r"[A-Z][A-Za-z]*[a-z]\w*", each.targets[0].id):
                    found[each.targets[0].id].append(module_name(path))
        twice = {name: modules for name, modules in found.items() if len(modules) > 1 and name not in SAME_MEANING}
        self.assertEqual({}, twice)

    def test_every_module_says_what_it_is(self) -> None:
        """Each module has a docstring."""
        self.assertEqual([], [module_name(path) for path in sources() if not ast.get_docstring(tree(path))])

    def test_nothing_is_left_to_do(self) -> None:
        """The code has no TODO and no stub."""
        mark = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX|NotImplementedError)\b")
        wrong = [
            f"{path.relative_to(ROOT)}:{number}"
            for path in sources()
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
            if mark.search(line)
        ]
        self.assertEqual([], wrong)


class TestFileTests(SynchronousTestCase):
    """The tests of a module are in tests/unit, in the file of its name, or where the tables above say."""

    def test_each_module_has_its_tests(self) -> None:
        """Each module has a test file of its name, or a row with the reason. A module with its own file has no row."""
        modules = {module_name(path).removeprefix("s2sgw."): path for path in sources() if path.stem != "__init__"}
        without = {name for name, path in modules.items() if not _own_tests(path).exists()}
        rows = [*TESTED_ELSEWHERE, *(name for names in WITHOUT_TESTS.values() for name in names.split())]
        self.assertEqual(sorted(without), sorted(rows))

    def test_the_other_files_are_there(self) -> None:
        """The test files in the rows exist."""
        self.assertEqual([], [name for name in set(TESTED_ELSEWHERE.values()) if not (ROOT / "tests" / f"{name}.py").is_file()])


def _own_tests(path: Path) -> Path:
    """Return the test file of a module's name."""
    return ROOT / "tests" / "unit" / path.relative_to(PACKAGE).parent / f"test_{path.name}"


def declared() -> dict[str, str]:
    """Return import name -> distribution, for the dependencies in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["cluster"]]
    names = [re.split(r"[\[<>=!~; ]", requirement)[0] for requirement in requirements]
    return {IMPORT_NAMES.get(name.lower(), name.lower().replace("-", "_")): name for name in names}


def third_parties() -> dict[str, str]:
    """Return import name -> one module that imports it, for all imports from elsewhere."""
    found: dict[str, str] = {}
    for path in sources():
        for _, name in imports(ast.walk(tree(path))):
            top = name.split(".")[0]
            if top != "s2sgw" and top not in sys.stdlib_module_names:
                found.setdefault(top, module_name(path))
    return found


class DependencyTests(SynchronousTestCase):
    """Libraries."""

    def test_what_is_imported_is_declared(self) -> None:
        """Every imported library is declared: none is present only because another library needs it."""
        self.assertEqual({}, {name: spot for name, spot in third_parties().items() if name not in declared()})

    def test_one_module_imports_an_extra(self) -> None:
        """One module imports the library of an extra. It is loaded only if the extra is configured."""
        found = {module_name(path) for path in sources() for _, name in imports(ast.walk(tree(path))) if name.split(".")[0] == "nats"}
        self.assertEqual({"s2sgw.cluster.nats_connection"}, found)

    def test_every_dependency_has_its_reason(self) -> None:
        """docs/architecture.md gives the reason of each dependency."""
        text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
        self.assertEqual([], [name for name in declared().values() if f"**{name}**" not in text])


class DocumentTests(SynchronousTestCase):
    """The statements in docs/architecture.md are true."""

    def test_packages(self) -> None:
        """The table of packages has every package with its allowed imports."""
        text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
        rows = dict(re.findall(r"^\| `(\w+)(?:/|\.py)` \| [^|]* \| ([^|]*) \|", text, re.MULTILINE))
        self.assertEqual(set(MAY_IMPORT), set(rows))
        for package, allowed in rows.items():
            if allowed != "everything below":
                expected = set(MAY_IMPORT[package].split())
                self.assertEqual(expected, set(re.findall(r"[\w.]+", allowed.replace("`", "").replace(", and ", ", ").replace("–", ""))), package)

    def test_files(self) -> None:
        """Every file that the documents name exists."""
        for name in ("architecture.md", "decisions.md", "glossary.md"):
            text = (ROOT / "docs" / name).read_text(encoding="utf-8")
            self.assertEqual([], [path for path in re.findall(r"`([\w/]+\.py)`", text) if not any((root / path).exists() for root in (ROOT, PACKAGE))])

    def test_decisions(self) -> None:
        """Every decision that code or documents cite has its section."""
        text = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
        sections = {heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.+)$", text, re.MULTILINE)}
        files = [*sources(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "docs").glob("*.md")]
        cited = {(path.name, slug) for path in files for slug in re.findall(r"decisions\.md#([\w-]+)", path.read_text(encoding="utf-8"))}
        self.assertEqual([], sorted((name, slug) for name, slug in cited if slug not in sections))
