"""Waiting for a service that is away, longer each time, and not for ever."""

import asyncio
import random
from collections.abc import Callable

from services.cli.client.ending import Failed

GIVE_UP_SECONDS = 60.0
FIRST_DELAY = 0.2
LONGEST_DELAY = 5.0


class Patience:
    """What is left of the time that may go by in vain.

    That is the time since a first failure, without what was spent in contact with the service.
    """

    def __init__(self, note: Callable[[str], None], seconds: float = GIVE_UP_SECONDS) -> None:
        self._note = note
        self._seconds = seconds
        self._spent = 0.0
        self._since: float | None = None
        self._is_noted = False
        self._delay = FIRST_DELAY

    def renew(self) -> None:
        """Something was won: all of the time is there again."""
        self._spent, self._since, self._is_noted, self._delay = 0.0, None, False, FIRST_DELAY

    def contact(self) -> None:
        """The service is there, but nothing is won yet: until the next failure no time is spent."""
        self._spent += self._elapsed()
        self._since = None

    async def wait_after(self, failure: Failed) -> None:
        """Wait for a while, at least as long as the service has asked for. Raises the failure if that is too long."""
        self._spent += self._elapsed()
        self._since = asyncio.get_running_loop().time()
        if not self._is_noted:
            self._is_noted = True
            self._note(f"{failure}; trying again")
        delay = max(failure.retry_after or 0.0, self._delay * random.uniform(0.5, 1))  # noqa: S311  # not a secret
        if self._spent > self._seconds or (failure.retry_after or 0.0) > self._seconds - self._spent:
            raise failure
        await asyncio.sleep(delay)
        self._delay = min(2 * self._delay, LONGEST_DELAY)

    def _elapsed(self) -> float:
        return 0.0 if self._since is None else asyncio.get_running_loop().time() - self._since
