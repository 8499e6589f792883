"""Tests of `s2sgw schema`: the schemas match the code. After a change: `python -m tests.support.schemas`."""

from __future__ import annotations

import json
import tomllib

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cli import main as command
from tests.support.schemas import ROOT, descriptions, files


class SchemaTests(SynchronousTestCase):
    def test_up_to_date(self) -> None:
        """The schemas in the package match the code and docs/configuration.md."""
        for path, text in files().items():
            self.assertEqual(json.loads(text), json.loads(path.read_text("utf-8")), f"{path}: run python -m tests.support.schemas")

    def test_printed(self) -> None:
        """Both schemas are printed unchanged."""
        texts = [CliRunner().invoke(command.main, ["schema", *more]).output for more in ([], ["--responses"])]
        self.assertEqual([text for _, text in files().items()], texts)

    def test_every_key(self) -> None:
        """Every key of the full example is in the schema, with a description from the documentation."""
        schema = json.loads(CliRunner().invoke(command.main, ["schema"]).output)
        tree = tomllib.loads((ROOT / "examples" / "full.toml").read_text("utf-8"))
        tables = {"listen": "Listener", "backend": "Backend"}
        for section, written in tree.items():
            if section == "peers":
                known, keys = schema["$defs"]["PeerObject"]["properties"], {key for each in written.values() for key in each}
            else:
                known = schema["$defs"][tables[section]]["properties"] if section in tables else schema["properties"][section]["properties"]
                keys = {key for each in written for key in each} if isinstance(written, list) else set(written)
            self.assertEqual(set(), keys - set(known), section)
            self.assertEqual(set(), {key for key in keys if "description" not in known[key]} - {"limits", "features", "static"}, section)

    def test_defaults(self) -> None:
        """Defaults are written as in the file."""
        queue = json.loads(CliRunner().invoke(command.main, ["schema"]).output)["properties"]["queue"]["properties"]
        self.assertEqual(("10m", "64MiB", "25%"), tuple(queue[key]["default"] for key in ("hold", "memory", "share")))
        self.assertIn("queue.hold", descriptions())
