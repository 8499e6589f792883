"""Which real servers there are."""

from __future__ import annotations

from collections.abc import Callable

from tests.lab.servers import ejabberd, jabberd2, prosody
from tests.lab.servers.server import Server, Site

START: dict[str, Callable[[Site], Server]] = {
    "prosody": prosody.start, "ejabberd": ejabberd.start, "jabberd2": jabberd2.start,
}
