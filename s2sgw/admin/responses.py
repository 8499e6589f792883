"""The result types of the verbs. `s2sgw schema --responses` publishes them; the tests compare them with real responses."""

from __future__ import annotations

from typing import Any

from s2sgw.admin.verb_table import ROWS

#: verb -> the type of its result
RESPONSES: dict[str, Any] = {**{row.name: row.answer for row in ROWS}, "watch": dict[str, Any]}
