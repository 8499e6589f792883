"""The house: imports run down the floors, the pure floors are pure, names are the standard's, dependencies are declared."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "s2sgw"

#: Folder or file under s2sgw -> its floor (DESIGN, "The house").
FLOORS = {
    "xmpp": 1, "stream": 2, "trust": 2, "queue": 2, "spool": 2, "reporting": 2, "net": 3, "policy": 3, "delivery": 3,
    "config": 4, "peerdb": 4, "ingress": 4, "authentication": 5, "s2s": 6, "backend": 7, "runtime": 7, "admin": 8, "cli": 9, "composition": 9, "service": 10,
}
#: Floors 2 and 3 have walls inside: `stream`, `trust` and `queue` do not know each other; `net` knows no policy, `policy` no network.
STRANGERS = {
    "stream": {"trust", "queue"}, "trust": {"stream", "queue"}, "queue": {"stream", "trust"},
    "net": {"policy", "delivery"}, "policy": {"net", "delivery"}, "delivery": {"net", "policy"},
}
#: Imports that still run up the floors; the list may only shrink.
UPWARDS = {
    "s2sgw/delivery/ack_selection.py s2sgw.net.connection", "s2sgw/delivery/ack_selection.py s2sgw.s2s.extensions",
    "s2sgw/delivery/agent.py s2sgw.s2s.connecting", "s2sgw/delivery/agent.py s2sgw.s2s.resumption",
    "s2sgw/delivery/agent_states.py s2sgw.s2s.connecting", "s2sgw/delivery/outbound_stream.py s2sgw.ingress.stream_ingress",
    "s2sgw/delivery/outbound_stream.py s2sgw.net.connection", "s2sgw/delivery/outbound_stream.py s2sgw.net.discovery",
    "s2sgw/delivery/outbound_stream.py s2sgw.s2s.legs", "s2sgw/delivery/outbound_stream.py s2sgw.s2s.resumption",
}
PURE = ("xmpp", "stream", "trust", "policy", "queue/pair_queue.py", "queue/backoff.py", "queue/bounce.py")
IMPURE_MODULES = {"twisted", "OpenSSL", "socket", "asyncio", "time", "ssl", "select", "threading", "random"}
FORBIDDEN = ("twisted.words", "treq", "klein", "lxml")
FORBIDDEN_NAMES = {"utils", "util", "helper", "helpers", "manager", "handler", "processor", "engine", "misc", "common"}
#: The import name of a distribution, where the two differ.
IMPORT_NAMES = {"pyopenssl": "OpenSSL", "dnspython": "dns", "zope.interface": "zope"}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@lru_cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def place(module: str) -> str:
    """The folder (or the file on the first level) that a module of ours lives in: its key in FLOORS, "" for s2sgw itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(nodes: Iterator[ast.AST] | list[ast.stmt]) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported; `from a import b` gives both a and a.b."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            assert node.module is not None
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def for_types_only(path: Path) -> set[int]:
    """The lines under `if TYPE_CHECKING:`."""
    lines: set[int] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def at_import(path: Path) -> Iterator[ast.AST]:
    """The nodes of a file that run when it is imported: everything outside functions."""
    waiting: list[ast.AST] = list(tree(path).body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting.extend(ast.iter_child_nodes(node))


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


class FloorTests(SynchronousTestCase):
    def test_every_file_has_a_floor(self) -> None:
        """A new folder or file on the first level is given its floor here, or it is in the wrong place."""
        strays = [module_name(path) for path in sources() if place(module_name(path)) not in FLOORS and place(module_name(path))]
        self.assertEqual([], strays)

    def test_imports_run_down(self) -> None:
        """A file imports only from floors below, or from its own folder; the neighbours on floors 2 and 3 are strangers."""
        wrong = []
        for path in sources():
            own = place(module_name(path))
            for line, name in imports(ast.walk(tree(path))):
                other = place(name) if name.startswith("s2sgw.") else ""
                if not own or other not in FLOORS or other == own:
                    continue
                if any(f"{path.relative_to(ROOT)} {known}" in UPWARDS for known in (name, name.rpartition(".")[0])):
                    continue
                if FLOORS[other] > FLOORS[own] or other in STRANGERS.get(own, ()):
                    wrong.append(f"{where(path, line)} {own} imports {name}")
        self.assertEqual([], wrong)

    def test_no_circles(self) -> None:
        """Within a folder no module imports, over any number of steps, itself."""
        modules = {module_name(path): path for path in sources()}
        graph = {
            name: {other for line, other in imports(list(at_import(path))) if other in modules and other != name and line not in for_types_only(path)}  # type: ignore[arg-type]
            for name, path in modules.items()
        }
        self.assertEqual([], [name for name in graph if name in reachable(graph, name)])


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(graph[name])
    return seen


class PurityTests(SynchronousTestCase):
    def test_pure_floors(self) -> None:
        """xmpp, stream, trust, policy and the queue's words import no network, no clock, no chance."""
        wrong = []
        for path in sources():
            inside = path.relative_to(PACKAGE).as_posix()
            if not any(inside == pure or inside.startswith(f"{pure}/") for pure in PURE):
                continue
            wrong += [f"{where(path, line)} {name}" for line, name in imports(ast.walk(tree(path))) if name.split(".")[0] in IMPURE_MODULES]
        self.assertEqual([], wrong)

    def test_no_reactor_at_import(self) -> None:
        """No module imports the reactor when it is imported: twistd has yet to choose it."""
        wrong = [
            where(path, line)
            for path in [*sources(), *sorted((ROOT / "twisted").rglob("*.py"))]
            for line, name in imports(list(at_import(path)))  # type: ignore[arg-type]
            if name == "twisted.internet.reactor"
        ]
        self.assertEqual([], wrong)

    def test_forbidden_imports(self) -> None:
        """No twisted.words (its XMPP builds trees), and nothing that imports the reactor by itself."""
        wrong = [
            f"{where(path, line)} {name}"
            for path in sources()
            for line, name in imports(ast.walk(tree(path)))
            if any(name == bad or name.startswith(f"{bad}.") for bad in FORBIDDEN)
        ]
        self.assertEqual([], wrong)

    def test_plugins_is_no_package(self) -> None:
        """An __init__.py beside the plugin would hide Twisted's own plugins."""
        self.assertEqual([], list((ROOT / "twisted").rglob("__init__.py")))


class NameTests(SynchronousTestCase):
    def test_file_names(self) -> None:
        """Files are the nouns of the standard: no utils, helper, manager, handler, processor, engine, misc."""
        wrong = [str(path.relative_to(ROOT)) for path in sources() if FORBIDDEN_NAMES & set(re.split(r"[_.]", path.stem))]
        self.assertEqual([], wrong)

    def test_every_module_says_what_it_is(self) -> None:
        """Each module has a docstring."""
        self.assertEqual([], [module_name(path) for path in sources() if not ast.get_docstring(tree(path))])

    def test_nothing_is_left_to_do(self) -> None:
        """No TODO and no stub stands in the code."""
        mark = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX|NotImplementedError)\b")
        wrong = [
            where(path, number)
            for path in sources()
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
            if mark.search(line)
        ]
        self.assertEqual([], wrong)


def declared() -> dict[str, str]:
    """Import name -> distribution, of what pyproject.toml depends on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[\[<>=!~; ]", requirement)[0] for requirement in project["dependencies"]]
    return {IMPORT_NAMES.get(name.lower(), name.lower().replace("-", "_")): name for name in names}


def third_parties() -> dict[str, str]:
    """Import name -> one place, of what the package imports from elsewhere."""
    found: dict[str, str] = {}
    for path in sources():
        for line, name in imports(ast.walk(tree(path))):
            top = name.split(".")[0]
            if top != "s2sgw" and top not in sys.stdlib_module_names:
                found.setdefault(top, where(path, line))
    return found


class DependencyTests(SynchronousTestCase):
    def test_what_is_imported_is_declared(self) -> None:
        """No import rests on a library that only another library brings along."""
        self.assertEqual({}, {name: spot for name, spot in third_parties().items() if name not in declared()})

    def test_every_dependency_has_its_reason(self) -> None:
        """docs/architecture.md says of each dependency why it is here."""
        text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
        self.assertEqual([], [name for name in declared().values() if f"**{name}**" not in text])
