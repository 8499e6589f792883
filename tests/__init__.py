"""The tests of s2sgw: `make test`."""

from hypothesis import HealthCheck, settings

#: A machine that has other work to do makes no test fail: no example has a deadline, and no strategy is too slow.
settings.register_profile("s2sgw", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("s2sgw")
