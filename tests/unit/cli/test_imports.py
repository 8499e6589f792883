"""Tests of the imports of a command: the command line should answer at once."""

from __future__ import annotations

import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

#: Packages that take long to import, and that only some commands need.
SLOW = {
    "OpenSSL", "automat", "cryptography", "dns", "hypothesis", "prometheus_client", "pydantic", "service_identity", "twisted", "zope", "asyncio", "sqlite3",
}
_SCRIPT = """
import sys
from s2sgw.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("\\n" + " ".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def imported(*words: str) -> set[str]:
    """Return the packages that are imported when the command has ended."""
    ended = subprocess.run([sys.executable, "-c", _SCRIPT, *words], capture_output=True, text=True, check=True, timeout=60)
    return set(ended.stdout.rpartition("\n")[0].splitlines()[-1].split())


class ImportTests(SynchronousTestCase):
    def test_fast_commands(self) -> None:
        """Help, version, and a request to a gateway import nothing slow. Only commands that check a configuration import `s2sgw.config`."""
        for words in (["--help"], ["--version"], ["queue", "--help"], ["status", "--config", "/nonexistent"], ["explain", "a.example", "--config", "/nonexistent"]):
            found = imported(*words)
            self.assertIn("click", found)
            self.assertEqual(set(), found & SLOW, words)
