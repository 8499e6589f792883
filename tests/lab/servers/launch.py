"""The available real servers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.lab.servers import debian13, ejabberd, jabberd2, openfire, prosody
from tests.lab.servers.server import Server, Site

#: Servers of Debian 12, installed as packages.
DEBIAN_12: dict[str, Callable[[Site], Server]] = {
    "prosody": prosody.start, "ejabberd": ejabberd.start, "jabberd2": jabberd2.start,
}
#: Servers of Debian 13, unpacked into a folder: Prosody 13.0 and ejabberd 24.12.
DEBIAN_13: dict[str, Callable[[Site], Server]] = {
    "prosody13": partial(prosody.start, enter=debian13.inside), "ejabberd24": partial(ejabberd.start, enter=debian13.inside),
}
START = {**DEBIAN_12, **DEBIAN_13}


def starter(kind: str) -> Callable[[Site], Server]:
    """Return the function that starts a server of this kind. Openfire is available only with its distribution."""
    return openfire.start if kind == "openfire" else START[kind]


def setup_name(kind: str) -> str:
    """Return the name of this kind of server in `s2sgw setup`."""
    return kind.rstrip("0123456789") if kind in DEBIAN_13 else kind
