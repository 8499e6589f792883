"""The locks: all requirements of pyproject.toml, within their ranges, by version and hash, from no particular index."""

from __future__ import annotations

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from twisted.trial.unittest import SynchronousTestCase

from tests.project.audit import report
from tests.project.source_tree import ROOT

LOCKS = {"requirements.lock": ("cluster",), "requirements-dev.lock": ("dev",), "requirements-docs.lock": ("docs",), "requirements-release.lock": ("release",)}
#: The engine of a cluster, for tests alone.
TESTS_LOCK = "requirements-nats.lock"
#: name==version ; marker, and then one hash a line
_PIN = re.compile(r"([A-Za-z0-9._-]+)==(\S+)(?: ; (.*?))? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)")


def pins(name: str) -> dict[str, set[str]]:
    """Return package -> versions of a lock; each Python and platform may have its own."""
    text = (ROOT / name).read_text(encoding="utf-8")
    found: dict[str, set[str]] = {}
    for package, version, _, _ in _PIN.findall(text):
        found.setdefault(canonicalize_name(package), set()).add(version)
    return found


class LockTests(SynchronousTestCase):
    def test_nothing_but_pins(self) -> None:
        """A lock contains pins with hashes, and comments: no index, no address, and no unchecked download."""
        for name in (*LOCKS, TESTS_LOCK):
            text = (ROOT / name).read_text(encoding="utf-8")
            self.assertEqual("", re.sub(r"(?m)^#.*\n", "", _PIN.sub("", text)), name)
            self.assertNotIn("://", text)

    def test_everything_is_pinned(self) -> None:
        """The requirements of pyproject.toml are in the lock, in an allowed version. After a change, run `make lock`."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for name, extras in LOCKS.items():
            locked = pins(name)
            wanted = [*project["dependencies"], *(each for extra in extras for each in project["optional-dependencies"][extra])]
            for requirement in map(Requirement, wanted):
                versions = locked.get(canonicalize_name(requirement.name), set())
                self.assertTrue(any(requirement.specifier.contains(each, prereleases=True) for each in versions), f"{name}: {requirement}")

    def test_developers_run_what_is_deployed(self) -> None:
        """Tests run with the deployed versions."""
        deployed, developers = pins("requirements.lock"), pins("requirements-dev.lock")
        self.assertEqual({}, {name: (versions, developers.get(name)) for name, versions in deployed.items() if developers.get(name) != versions})

    def test_build_backend(self) -> None:
        """The lock of developers has the build backend, so nothing is downloaded to build."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        self.assertEqual(set(), {Requirement(each).name for each in project["build-system"]["requires"]} - set(pins("requirements-dev.lock")))


class AuditTests(SynchronousTestCase):
    def test_report(self) -> None:
        """A package without a result counts as unknown, not as good."""
        good: dict[str, object] = {"name": "a", "version": "1", "vulns": []}
        bad: dict[str, object] = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
        unknown: dict[str, object] = {"name": "c", "version": "1", "skip_reason": "not found"}
        self.assertEqual((["1 packages, no known vulnerabilities"], True), report({"dependencies": [good]}))
        self.assertEqual((["b 2: CVE-1, fixed in 3"], False), report({"dependencies": [good, bad]}))
        lines, fine = report({"dependencies": [good, unknown]})
        self.assertIn("NOT AUDITED: 1 of 2", lines[0])
        self.assertFalse(fine)
