"""Passwords: Argon2id (RFC 9106), off the event loop, a few at a time, with a bounded queue."""

import asyncio
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from passlib.context import CryptContext

from services.kit.errors import Overloaded

T = TypeVar("T")

# OWASP's second choice: 19 MiB, two passes, one lane. The library's default of 64 MiB and four lanes allows 2 logins/s.
_CONTEXT = CryptContext(
    schemes=["argon2"],
    argon2__type="ID",
    argon2__memory_cost=19_456,
    argon2__rounds=2,
    argon2__parallelism=1,
)


class Passwords:
    """Hashes and checks passwords. Made by `open_passwords`."""

    def __init__(self, pool: ThreadPoolExecutor, *, slots: int, queue: int) -> None:
        self._pool = pool
        self._most = slots + queue
        self._at_work = 0
        self._decoy: str | None = None

    async def hash(self, password: str) -> str:
        """The hash to store, in PHC string format. Raises Overloaded when too many wait."""
        return await self._run(lambda: str(_CONTEXT.hash(_normalised(password))))

    async def matches(self, password: str, stored: str | None) -> bool:
        """Whether a password fits a stored hash. With None it takes the same time and answers False.

        So that the time tells nobody which addresses are registered. Raises Overloaded when too many wait.
        """
        if stored is None:
            if self._decoy is None:
                self._decoy = await self.hash("no password matches this")
            decoy = self._decoy
            await self._run(lambda: _CONTEXT.verify(_normalised(password), decoy))
            return False
        return await self._run(lambda: bool(_CONTEXT.verify(_normalised(password), stored)))

    async def _run(self, work: Callable[[], T]) -> T:
        if self._at_work >= self._most:
            raise Overloaded(retry_after=timedelta(seconds=1))
        self._at_work += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._at_work -= 1


@contextmanager
def open_passwords(*, slots: int, queue: int) -> Iterator[Passwords]:
    """At most `slots` at work and `queue` waiting."""
    pool = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="argon2")
    try:
        yield Passwords(pool, slots=slots, queue=queue)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _normalised(password: str) -> str:
    """NFC, so that the same characters typed on another keyboard are the same password (NIST SP 800-63B-4 §3.1.1.2)."""
    return unicodedata.normalize("NFC", password)
