"""`make console-test`: play the scenes. The last line is `N passed, N failed`."""

from __future__ import annotations

import sys
import time

from tests.browser.chromium import chromium, is_installed
from tests.browser.place import Place
from tests.browser.scenes import Scenes
from tests.lab.lab import Lab


def main() -> int:
    """Play every scene. A scene that fails ends the run, because the others continue from it."""
    if not is_installed():
        print("skipped: Chromium and its driver are not installed (Debian: apt-get install chromium chromium-driver)")
        print("0 passed, 0 failed")
        return 0
    passed = failed = 0
    with Lab() as lab:
        place = Place(lab)
        place.start()
        with chromium(lab.port(), lab.directory("browser")) as browser:
            for scene in Scenes(place, browser).all():
                began = time.monotonic()
                try:
                    scene()
                except AssertionError as error:
                    failed += 1
                    print(f"FAILED  {scene.__doc__}\n        {error}\n        on {browser.address}")
                    break
                passed += 1
                print(f"ok      {scene.__doc__}  ({time.monotonic() - began:.1f} s)", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
