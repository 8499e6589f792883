"""The figures of the architecture: `python -m tests.project.figures` prints them; docs/architecture.md holds them.

The figures tell how hard the code is to follow: how many files one stanza passes through, how often a class gets a function
instead of a named object, how often the code looks behind an interface.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from tests.project.journey import Journey, measure
from tests.project.source_tree import (
    FORMER_GATEWAY,
    circles,
    classes,
    constructor,
    is_protocol,
    module_name,
    package_of,
    sources,
    tree,
)

_CALLABLE = re.compile(r"(^|\| )(Callable\[|type\[)")
#: Calls that run a function later: a lambda there is not a parameter of an object of the package.
LOOKS = ("isinstance", "cast", "getattr")


@lru_cache
def callable_aliases() -> frozenset[str]:
    """Return the names of function types: `Dialler = Callable[…]`."""
    found = set()
    for path in sources():
        for node in tree(path).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and ast.unparse(node.value).startswith("Callable["):
                found.add(node.targets[0].id)
    return frozenset(found)


def is_callable(annotation: str) -> bool:
    """Return whether a parameter of this type is a function."""
    return bool(_CALLABLE.search(annotation)) or any(part in callable_aliases() for part in annotation.split(" | "))


def constructor_parameters() -> Iterator[tuple[str, str, str]]:
    """Yield (class, parameter, annotation) of every constructor in the packages of `source_tree`."""
    for path in sources():
        if package_of(module_name(path)) in FORMER_GATEWAY:
            for node in classes(path):
                yield from ((f"{path.parent.name}.{node.name}", name, annotation) for name, annotation in constructor(node))


def lambdas() -> Iterator[tuple[Path, int]]:
    """Yield each place where a lambda is passed as an argument."""
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                given = [*node.args, *(keyword.value for keyword in node.keywords)]
                yield from ((path, each.lineno) for each in given if isinstance(each, ast.Lambda))


@lru_cache
def interface_attributes() -> frozenset[str]:
    """Return the names of attributes and parameters whose type is a protocol of the package: `next_hop`, `engine`, …"""
    protocols = {node.name for path in sources() for node in classes(path) if is_protocol(node)}
    found = set()
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.AnnAssign):
                name, annotation = ast.unparse(node.target).rpartition(".")[2], node.annotation
            elif isinstance(node, ast.arg) and node.annotation is not None:
                name, annotation = node.arg, node.annotation
            else:
                continue
            if protocols & set(re.split(r"[^\w]+", ast.unparse(annotation))):
                found.add(name.lstrip("_"))
    return frozenset(found)


def downcasts() -> Iterator[tuple[Path, int, str]]:
    """Yield each place that asks for the class behind an interface: `isinstance(queue.next_hop, DeliveryAgent)`, `cast(Managed, x.engine)`,
    `getattr(connection.engine, "bidi", False)`.
    """
    for path in sources():
        for node in ast.walk(tree(path)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in LOOKS and len(node.args) >= 2):
                continue
            seen = node.args[1] if node.func.id == "cast" else node.args[0]
            if isinstance(seen, ast.Attribute) and seen.attr.lstrip("_") in interface_attributes():
                yield path, node.lineno, ast.unparse(node)


def figures() -> dict[str, float]:
    """Return every figure by its name."""
    journey: Journey = measure()
    parameters = list(constructor_parameters())
    functions = [row for row in parameters if is_callable(row[2])]
    return {
        "journey: file entries": len(journey.entries),
        "journey: files": len({entry.file for entry in journey.entries}),
        "journey: delivery queue entered": journey.entered("delivery/queue.py"),
        "constructor parameters that are functions, %": round(100 * len(functions) / len(parameters), 1),
        "lambdas passed as arguments": len(list(lambdas())),
        "downcasts through an interface": len(list(downcasts())),
        "circles of imports": len(circles()),
    }


#: The limit of each figure.
TARGETS = {
    "journey: file entries": 120, "journey: delivery queue entered": 10, "constructor parameters that are functions, %": 8.0,
    "lambdas passed as arguments": 60, "downcasts through an interface": 0, "circles of imports": 0,
}


def main() -> None:
    """Print the figures, and the places to correct."""
    for name, value in figures().items():
        target = TARGETS.get(name)
        print(f"{name:48} {value:6g}" + ("" if target is None else f"   (at most {target:g})"))


if __name__ == "__main__":
    main()
