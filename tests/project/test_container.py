"""The Containerfile: it copies existing files, installs by hash, runs as an unprivileged user and has a health check."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cli.main import main
from tests.project.source_tree import ROOT


def instructions(text: str) -> list[tuple[str, str]]:
    """Return each instruction of a Containerfile with its arguments; continued lines are joined."""
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", text)).splitlines()
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


class ContainerTests(SynchronousTestCase):
    def setUp(self) -> None:
        found = instructions((ROOT / "Containerfile").read_text("utf-8"))
        last = max(at for at, (word, _) in enumerate(found) if word == "FROM")
        self.all, self.image = found, found[last:]

    def of(self, word: str) -> Sequence[str]:
        return [rest for each, rest in self.image if each == word]

    def test_copies(self) -> None:
        """The copied files exist, and the list for the builder allows exactly these."""
        copied = {name for word, rest in self.all if word == "COPY" and "--from" not in rest for name in rest.split()[:-1]}
        for name in copied:
            self.assertTrue((ROOT / name).exists(), name)
        ignore = (ROOT / ".containerignore").read_text("utf-8").splitlines()
        self.assertEqual("*", ignore[0])
        self.assertEqual(copied, {line[1:] for line in ignore if line.startswith("!")})

    def test_by_hash(self) -> None:
        """Every library is installed from the lock, by its hash, on a supported Python."""
        runs = " ".join(rest for word, rest in self.all if word == "RUN")
        self.assertIn("--require-hashes --requirement /build/requirements.lock", runs)
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        for base in (rest for word, rest in self.all if word == "FROM"):
            (version,) = re.findall(r"python:(3\.\d+)-slim", base)
            self.assertIn(f"Programming Language :: Python :: {version}", project["classifiers"])

    def test_user(self) -> None:
        """The image runs as a user with a number, who owns the state directory."""
        (user,) = self.of("USER")
        self.assertRegex(user, r"^[1-9]\d*:[1-9]\d*$")
        self.assertEqual(["/var/lib/s2sgw"], list(self.of("VOLUME")))
        self.assertIn(f"--uid {user.partition(':')[0]} ", " ".join(self.of("RUN")))

    def test_commands(self) -> None:
        """The program, its default and its health check are existing commands. The stop signal causes a normal stop."""
        (health,) = self.of("HEALTHCHECK")
        check = json.loads(health[health.index("["):])
        program, default = json.loads(self.of("ENTRYPOINT")[0]), json.loads(self.of("CMD")[0])
        self.assertEqual(["s2sgw"], program)
        self.assertEqual(["s2sgw", "status", "--here"], check)
        for name in (default[0], check[1]):
            self.assertIn(name, main.list_commands(None))  # type: ignore[arg-type]
        self.assertEqual(["SIGTERM"], list(self.of("STOPSIGNAL")))
