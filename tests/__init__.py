"""The tests of s2sgw: `make test`."""

import os

from hypothesis import HealthCheck, settings

#: A machine that has other work to do makes no test fail: no example has a deadline, and no strategy is too slow. The examples are
#: the same each time; FUZZ_EXAMPLES, which sets their number, has others tried.
settings.register_profile(
    "s2sgw", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="FUZZ_EXAMPLES" not in os.environ,
)
settings.load_profile("s2sgw")
