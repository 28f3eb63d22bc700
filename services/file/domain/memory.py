"""How many bytes of uploads this process has in memory."""

import asyncio
from collections import deque


class MemoryBudget:
    """So many bytes for all uploads of the process; who finds none left waits in line until others give theirs back.

    Nobody may wait while holding bytes that only its own progress would give back: see `PartWriter.make_room`.
    """

    def __init__(self, size: int) -> None:
        self._left = size
        self._size = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits in line."""
        return bool(self._waiting)

    def try_take(self, amount: int) -> bool:
        """Take bytes at once; False if there are not so many, or others wait for them."""
        if self._waiting or not self._fits(amount):
            return False
        self._left -= amount
        return True

    async def take(self, amount: int) -> None:
        """Take bytes, once they are there."""
        if self.try_take(amount):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(amount)
            raise

    def give_back(self, amount: int) -> None:
        """The bytes are free again."""
        self._left += amount
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.cancelled():
                if not self._fits(wanted):
                    return
                self._left -= wanted
                turn.set_result(None)
            self._waiting.popleft()

    def _fits(self, amount: int) -> bool:
        return amount <= self._left or self._left == self._size  # More than there is at all is let through alone.
