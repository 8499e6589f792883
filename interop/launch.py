"""Which real servers there are."""

from __future__ import annotations

from collections.abc import Callable

from interop import ejabberd, jabberd2, prosody
from interop.server import Server, Site

START: dict[str, Callable[[Site], Server]] = {
    "prosody": prosody.start, "ejabberd": ejabberd.start, "jabberd2": jabberd2.start,
}
