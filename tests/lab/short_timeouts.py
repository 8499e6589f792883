"""Run the gateway with short timeouts, so that a scenario waits less: `python -m tests.lab.short_timeouts`, with the arguments of twistd."""

from __future__ import annotations

from twisted.scripts import twistd

from s2sgw.delivery import acknowledgements

#: Seconds that replace 20 for a ping, and 60 for an acknowledgement.
PING_SECONDS, OVERDUE_SECONDS = 3.0, 5.0


def main() -> None:
    """Shorten the timeouts, then run twistd."""
    acknowledgements.PING_SECONDS, acknowledgements.OVERDUE_SECONDS = PING_SECONDS, OVERDUE_SECONDS
    twistd.run()


if __name__ == "__main__":
    main()
