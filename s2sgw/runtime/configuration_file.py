"""The places of the configuration file, if the operator does not name it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

#: Environment variable with the path of the file.
VARIABLE = "S2SGW_CONFIG"
#: Paths that are tried in this order.
PLACES = (Path("s2sgw.toml"), Path("/etc/s2sgw/s2sgw.toml"))


class NoConfiguration(Exception):
    """There is no configuration file in any of the usual places. The text names them."""


def find_configuration(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the path in `S2SGW_CONFIG`, or else the first of `PLACES` that exists. Raises `NoConfiguration`.

    The path in the variable is returned even if no file is there: a wrong name must not lead to another gateway.
    """
    named = environment.get(VARIABLE)
    if named:
        return Path(named)
    found = next((place for place in PLACES if _exists(place)), None)
    if found is None:
        looked = " nor ".join(str(place if place.is_absolute() else f"./{place}") for place in PLACES)
        unset = f"${VARIABLE} is not set"
        raise NoConfiguration(f"no configuration file found: {unset}, and there is neither {looked}. Use --config FILE")
    return found


def _exists(place: Path) -> bool:
    """Return whether there is a file, readable or not."""
    try:
        return place.exists()
    except PermissionError:
        return True
