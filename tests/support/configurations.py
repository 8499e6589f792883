"""A folder with all files that a configuration needs, for tests of its errors."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.config import Config, ConfigError, parse

GATEWAY = '[gateway]\ndomains = ["example.org"]\n'


class ConfigTestCase(SynchronousTestCase):
    """A test case in a folder with the files of a configuration."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        (self.folder / "certs").mkdir(parents=True)

    def config(self, text: str = GATEWAY, system: tuple[str, ...] = ()) -> Config:
        return parse(text, self.folder / "s2sgw.toml", system_nameservers=system)

    def complaints(self, text: str, system: tuple[str, ...] = ()) -> list[str]:
        """Return the errors in `text`, without the folder's path."""
        try:
            self.config(text, system)
        except ConfigError as error:
            return [each.replace(f"{self.folder}/", "") for each in error.complaints]
        return []

    def with_gateway(self, text: str, system: tuple[str, ...] = ()) -> list[str]:
        """Return the errors in `text` after a valid [gateway] of two lines."""
        return self.complaints(GATEWAY + text, system)
