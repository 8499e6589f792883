"""The gateway as a process that is started, killed and stopped many times."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.lab.gateway import Gateway
from tests.lab.lab import LabError, Process

#: Seconds for a start (on a busy machine) and for a normal stop.
START_SECONDS, STOP_SECONDS = 120.0, 40.0


class GatewayRunner:
    """A runner that starts `gateway` and ends it. `statuses` are the exit statuses so far, `slow_stops` counts stops that had to be killed."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.process: Process
        self.statuses: list[int | None] = []
        self.slow_stops = 0

    @property
    def state(self) -> Path:
        """Return the gateway's state directory."""
        return self.gateway.folder / "state"

    def begin(self, program: Sequence[str] = (), descriptors: Sequence[int] = ()) -> Process:
        """Start the process, with `program` instead of twistd, and do not wait."""
        self.process = self.gateway.begin(*program, descriptors=descriptors)
        return self.process

    async def ready(self) -> None:
        """Wait until the gateway accepts connections, or has killed itself as requested."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if not self.process.alive:
                if self.process.status == -signal.SIGKILL:
                    return
                raise LabError(f"the gateway ended with status {self.process.status}:\n{self.process.output()}")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
        raise LabError(f"the gateway does not listen:\n{self.process.output()}")

    async def ended(self, process: Process | None = None) -> int | None:
        """Wait until the process is gone, kill it after `STOP_SECONDS`; return its exit status."""
        process = process or self.process
        deadline = time.monotonic() + STOP_SECONDS
        while process.alive:
            await asyncio.sleep(0.01)
            if time.monotonic() > deadline:
                self.slow_stops += 1
                process.kill()
        self.statuses.append(process.status)
        if process in self.gateway.lab.processes:
            self.gateway.lab.processes.remove(process)
        return process.status

    async def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.signal(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> int | None:
        """Stop it normally with SIGTERM; return its exit status."""
        self.process.signal(signal.SIGTERM)
        return await self.ended()

    async def ask(self, *words: str) -> Any:
        """Return the answer of `s2sgw WORDS --json`."""
        return await asyncio.to_thread(self.gateway.asked, *words)

    def set_aside(self) -> list[Path]:
        """Return the spool files that were found damaged and renamed."""
        return sorted(self.state.glob("*.damaged-*"))
