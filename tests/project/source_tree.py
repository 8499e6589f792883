"""The source of s2sgw as syntax trees: modules, imports, classes. Read once, used by the architecture tests and the figures."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "s2sgw"

#: The packages for which the figures count constructors.
FORMER_GATEWAY = ("delivery", "s2s", "ingress", "authentication", "peerdb", "runtime", "reporting")


@lru_cache
def sources() -> tuple[Path, ...]:
    """Return every file of the package."""
    return tuple(sorted(PACKAGE.rglob("*.py")))


@lru_cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_name(path: Path) -> str:
    """Return the dotted name of a file: "s2sgw.queue.backoff"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
    """Return the package of a module, or its file on the first level; "" for s2sgw itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything imported; `from a import b` gives both a and a.b."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            assert node.module is not None
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def at_import(path: Path) -> Iterator[ast.AST]:
    """Yield the nodes of a file that run when it is imported: all outside functions."""
    waiting: list[ast.AST] = list(tree(path).body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting.extend(ast.iter_child_nodes(node))


@lru_cache
def import_graph() -> Mapping[str, frozenset[str]]:
    """Return the imports of each module among the package's modules, also those inside functions and for types alone (TYPE_CHECKING)."""
    modules = {module_name(path): path for path in sources()}
    return {
        name: frozenset(other for _, other in imports(ast.walk(tree(path))) if other in modules and other != name)
        for name, path in modules.items()
    }


def reachable(graph: Mapping[str, Iterable[str]], start: str) -> set[str]:
    """Return all modules that `start` imports, over one step or more."""
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(graph[name])
    return seen


def circles() -> list[list[str]]:
    """Return the groups of modules that import each other, over any number of steps."""
    graph = import_graph()
    reached = {name: reachable(graph, name) for name in graph}
    groups = {tuple(sorted(other for other in reached[name] if name in reached[other])) for name in graph if name in reached[name]}
    return [list(group) for group in sorted(groups)]


def levels(package: str) -> int:
    """Return the length of the longest chain of imports inside a package, in modules. The package must have no circle."""
    graph = {
        name: {other for other in others if package_of(other) == package}
        for name, others in import_graph().items() if package_of(name) == package
    }

    @lru_cache
    def depth(name: str) -> int:
        return 1 + max((depth(other) for other in graph[name]), default=0)

    return max(map(depth, graph))


def classes(path: Path) -> Iterator[ast.ClassDef]:
    """Yield the classes that a file defines."""
    yield from (node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef))


def is_protocol(node: ast.ClassDef) -> bool:
    """Return whether a class is a `typing.Protocol`."""
    return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)


def is_dataclass(node: ast.ClassDef) -> bool:
    """Return whether a class is a dataclass or a NamedTuple, whose fields are its constructor's parameters."""
    names = [ast.unparse(each) for each in (*node.decorator_list, *node.bases)]
    return any(name.startswith("dataclass") or name in ("NamedTuple", "typing.NamedTuple") for name in names)


def constructor(node: ast.ClassDef) -> list[tuple[str, str]]:
    """Return (name, annotation) of each parameter of a class's constructor."""
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            given = [*each.args.posonlyargs, *each.args.args, *each.args.kwonlyargs][1:]
            return [(one.arg, ast.unparse(one.annotation) if one.annotation else "") for one in given]
    if not is_dataclass(node):
        return []
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)]
    given_fields = [each for each in fields if "init=False" not in ast.unparse(each) and not ast.unparse(each.annotation).startswith("ClassVar")]
    return [(each.target.id, ast.unparse(each.annotation)) for each in given_fields if isinstance(each.target, ast.Name)]
