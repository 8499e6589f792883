"""The result of each verb, as types. `s2sgw schema --responses` publishes them; the tests hold real responses against them."""

from __future__ import annotations

from typing import Any

from s2sgw.admin.verb_table import ROWS

#: verb -> the type of its result
RESPONSES: dict[str, Any] = {**{row.name: row.answer for row in ROWS}, "watch": dict[str, Any]}
