"""Tests of times that outlive restarts, reboots and steps of the wall clock."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.spool.interface import Spooled
from s2sgw.spool.sqlite_spool import SQLiteSpool
from s2sgw.spool.stored_time import StoredClock, boot_id, clock_now
from tests.support.spool_contract import A, Asking, spooled

WALL = 1_700_000_000.0


class StoredClockTests(SynchronousTestCase):
    def test_written_out(self) -> None:
        """A time that was written is read back. Any other text is refused."""
        clock = StoredClock("a-b", 1234567890123456)
        self.assertEqual(StoredClock.from_json(clock.to_json()), clock)
        for text in ("", "[]", "{}", '{"boot": "x", "offset": "soon"}', '{"boot": "x", "offset": Infinity}', "7"):
            self.assertRaises(ValueError, StoredClock.from_json, text)

    def test_boot_id(self) -> None:
        """The boot id is read if the system has one."""
        path = Path(self.mktemp())
        self.assertEqual(boot_id(path), "")
        path.write_text("8d2c\n")
        self.assertEqual(boot_id(path), "8d2c")
        path.write_bytes(b"\xff")
        self.assertEqual(boot_id(path), "")

    def test_an_unknown_boot_is_another(self) -> None:
        """Without a boot id the wall clock counts."""
        stored = clock_now(None, "", 10.0, WALL, 0)
        self.assertEqual(clock_now(stored, "", 20.0, WALL, 0).offset, round((WALL - 20) * 1e6))


class Machine:
    """A machine with its clocks, on which a gateway starts several times with one spool."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.monotonic, self.wall, self.boot = 1000.0, WALL, "first"

    def life(self) -> Asking:
        return Asking(lambda deliver: SQLiteSpool(
            self.path, 1 << 20, deliver, clock=lambda: self.monotonic, wall=lambda: self.wall, boot=lambda: self.boot,
        ))

    def pass_time(self, seconds: float, step: float = 0.0) -> None:
        self.monotonic += seconds
        self.wall += seconds + step

    def reboot(self, seconds: float, step: float = 0.0) -> None:
        self.monotonic, self.boot = 3.0, f"{self.boot}'"
        self.wall += seconds + step


class RestartTests(SynchronousTestCase):
    """Tests of a stanza with a hold time of 600 seconds, 100 of them passed when the gateway ends."""

    def setUp(self) -> None:
        self.machine = Machine(Path(self.mktemp()))
        it = self.machine.life()
        now = self.machine.monotonic
        it.append(spooled(A, 1)._replace(accepted_at=now, deadline=now + 600))
        self.machine.pass_time(100)
        it.close()

    def ages(self) -> tuple[float, float]:
        """Start again; return how long the stanza has waited and may wait yet."""
        it = self.machine.life()
        [row] = it.read(A)
        [summary] = it.queues()
        now = self.machine.monotonic
        self.assertEqual(summary.oldest, row.accepted_at)
        expired: list[Spooled] = it.ask(it.spool.expired, now, 9)
        self.assertEqual([each.position for each in expired], [1] if row.deadline <= now else [])
        it.close()
        return now - row.accepted_at, row.deadline - now

    def test_restart(self) -> None:
        """The time until the next start counts, whatever the wall clock does."""
        for step in (0.0, -3600.0, 3600.0):
            self.machine.pass_time(10, step)
        self.assertEqual(self.ages(), (130, 470))
        self.machine.pass_time(1000, -86400)
        self.assertEqual(self.ages(), (1130, -530))

    def test_reboot(self) -> None:
        """The time that the machine was off is taken from the wall clock."""
        self.machine.reboot(200)
        self.assertEqual(self.ages(), (300, 300))

    def test_reboot_with_the_clock_set_back(self) -> None:
        """If the wall clock was set back, the stanza does not wait for it to catch up. Its age is kept, and it expires within its hold time."""
        self.machine.reboot(200, -7200)
        self.assertEqual(self.ages(), (0, 600))

    def test_lives_after_a_reboot(self) -> None:
        """Stanzas stored before and after the reboot keep their times together."""
        self.machine.reboot(100, -7200)
        it = self.machine.life()
        now = self.machine.monotonic
        it.append(spooled(A, 2)._replace(accepted_at=now, deadline=now + 600))
        it.close()
        self.machine.pass_time(50, 7200)
        it = self.machine.life()
        self.assertEqual([self.machine.monotonic - row.accepted_at for row in it.read(A)], [50, 50])
        it.close()
