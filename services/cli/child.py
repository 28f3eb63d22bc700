"""One supervised process: started, read from, waited for, ended."""

import asyncio
import os
import signal
import subprocess
from contextlib import suppress

from services.cli.log_output import LineSplitter, Output
from services.cli.processes import ProcessSpec, kill_group, spawn

_CHUNK = 64 * 1024
_CHUNKS_IN_A_PIPE = 16  # at most 1 MiB, /proc/sys/fs/pipe-max-size


class Child:
    """A running process whose output goes to an `Output`.

    All of it happens in the event loop of the main thread. `reap` must be called when SIGCHLD has arrived.
    """

    def __init__(self, spec: ProcessSpec, output: Output) -> None:
        self.spec = spec
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[int] = self._loop.create_future()
        self._lines = LineSplitter(output, spec.name)
        self._pipe, write_end = os.pipe()
        os.set_blocking(self._pipe, False)
        try:
            self._process: subprocess.Popen[bytes] = spawn(spec, output=write_end)
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(write_end)
        self._loop.add_reader(self._pipe, self._read)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """False once its end has been noticed."""
        return not self._exited.done()

    def reap(self) -> None:
        """Notice that the process has ended, if it has."""
        if self.running and self._process.poll() is not None:
            kill_group(self._process)  # its own children, if it was killed before it could end them
            for _ in range(_CHUNKS_IN_A_PIPE):
                self._read()
            self._stop_reading()
            self._exited.set_result(self._process.returncode)

    async def wait(self) -> int:
        """The exit code; negative for the signal that ended it."""
        return await asyncio.shield(self._exited)

    async def stop(self, hurry: asyncio.Event) -> None:
        """End the process as its spec says; `hurry` leaves out the grace."""
        if not hurry.is_set():
            self._send(self.spec.stop_signal)
            await self._wait_for_end(self.spec.grace, hurry)
        if self.running:
            self._send(self.spec.kill_signal)
            await self._wait_for_end(0.5, None)
        if self.running:
            kill_group(self._process)
            await self.wait()

    async def _wait_for_end(self, seconds: float, hurry: asyncio.Event | None) -> None:
        waits = [asyncio.ensure_future(self.wait())]
        if hurry is not None:
            waits.append(asyncio.ensure_future(hurry.wait()))
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _send(self, sign: signal.Signals) -> None:
        if self.running:
            with suppress(ProcessLookupError):
                self._process.send_signal(sign)

    def _read(self) -> None:
        if self._pipe < 0:
            return
        try:
            data = os.read(self._pipe, _CHUNK)
        except BlockingIOError:
            return
        if data:
            self._lines.feed(data)
        else:
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._pipe >= 0:
            self._loop.remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = -1
            self._lines.finish()
