"""How many bytes of uploads this process has in memory."""

import asyncio
from collections import deque
from typing import Protocol
from weakref import WeakSet


class Holder(Protocol):
    """Who has bytes that wait for more of their upload."""

    @property
    def held(self) -> int:
        """How many."""

    def let_go(self) -> int:
        """Send them on their way, so that their memory comes back; how many that were, 0 if it cannot be done now."""


class MemoryBudget:
    """So many bytes for all uploads of the process; who finds none left waits in line until others give theirs back.

    What is taken is either on its way to the store, and comes back by itself, or held until more comes. While somebody
    waits for what would not come back by itself, the largest of what is held is sent on its way. So nobody can keep
    memory from the others, by falling silent, by sending slowly, or by waiting for memory himself.
    """

    def __init__(self, size: int) -> None:
        self._left = size
        self._size = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._holders: WeakSet[Holder] = WeakSet()

    def enter(self, holder: Holder) -> None:
        """It may hold bytes from now on, for as long as it is."""
        self._holders.add(holder)

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
        self._have_held_let_go()
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
                    self._have_held_let_go()
                    return
                self._left -= wanted
                turn.set_result(None)
            self._waiting.popleft()

    def _have_held_let_go(self) -> None:
        holders = sorted(((holder.held, holder) for holder in self._holders), key=lambda found: -found[0])
        on_their_way = self._size - self._left - sum(held for held, _ in holders)
        missing = sum(wanted for wanted, turn in self._waiting if not turn.cancelled()) - self._left - on_their_way
        for held, holder in holders:
            if missing <= 0 or not held:
                return
            missing -= holder.let_go()

    def _fits(self, amount: int) -> bool:
        return amount <= self._left or self._left == self._size  # More than there is at all is let through alone.
