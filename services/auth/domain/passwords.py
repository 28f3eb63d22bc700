"""Passwords: Argon2id (RFC 9106), off the event loop, a few at a time, with a bounded queue."""

import asyncio
import os
import random
import sys
import threading
import unicodedata
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import TypeVar

from passlib.context import CryptContext

from services.kit.errors import Overloaded

T = TypeVar("T")

# OWASP's second choice: 19 MiB, two passes, one lane. The library's default of 64 MiB and four lanes allows 2 logins/s.
MEMORY_KIB, PASSES, LANES = 19_456, 2, 1
TURNS_AHEAD = 2
RETRY_SECONDS = (0.5, 2.5)
REFUSE_SECONDS = (0.05, 0.25)
HASHING_NICENESS = 10
_CONTEXT = CryptContext(
    schemes=["argon2"],
    argon2__type="ID",
    argon2__memory_cost=MEMORY_KIB,
    argon2__rounds=PASSES,
    argon2__parallelism=LANES,
)


class Passwords:
    """Hashes and checks passwords. Made by `open_passwords`."""

    def __init__(self, pool: ThreadPoolExecutor, *, slots: int, queue: int) -> None:
        self._pool = pool
        self._most = slots + queue
        self._at_work = 0
        self._places = 0
        self._places_of_strangers = 0
        self._turns = asyncio.Semaphore(slots + TURNS_AHEAD)
        self._decoy = _hash_of_nothing()

    async def hash(self, password: str) -> str:
        """The hash to store, in PHC string format. Raises Overloaded when too many wait."""
        return await self.run(lambda: str(_CONTEXT.hash(normalised(password))))

    async def matches(self, password: str, stored: str | None) -> bool:
        """Whether a password fits a stored hash. With None it takes the same time and answers False.

        So that the time tells nobody which addresses are registered. Raises Overloaded when too many wait.
        """
        return await self.run(lambda: bool(_CONTEXT.verify(normalised(password), stored or self._decoy)))

    def is_outdated(self, stored: str) -> bool:
        """Whether a hash was made with parameters that are no longer ours."""
        return bool(_CONTEXT.needs_update(stored))

    @asynccontextmanager
    async def turn(self, *, of_stranger: bool = False) -> AsyncIterator[None]:
        """The turn of a call that will hash: who waits for it has cost nothing yet. Raises Overloaded.

        A few more than can hash have their turn at a time, so that the slots are used while others ask the database.
        All at once would keep the event loop so busy that it accepts no other call. Strangers, who register, take at
        most half of the places, so that those who have an account find some.
        """
        if self._places >= self._most or (of_stranger and self._places_of_strangers >= self._most // 2):
            # A refusal costs the event loop as much as an answer: those of a burst let the calls behind them pass.
            await asyncio.sleep(random.uniform(*REFUSE_SECONDS))  # noqa: S311  # no secret
            # Not the same for all who came together: they would come together again.
            raise Overloaded(retry_after=timedelta(seconds=random.uniform(*RETRY_SECONDS)))  # noqa: S311  # no secret
        self._places += 1
        self._places_of_strangers += of_stranger
        try:
            async with self._turns:
                yield
        finally:
            self._places -= 1
            self._places_of_strangers -= of_stranger

    async def run(self, work: Callable[[], T]) -> T:
        """Do what is as expensive as a hash in its turn. Raises Overloaded when too many wait."""
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
    pool = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="argon2", initializer=_step_back)
    try:
        yield Passwords(pool, slots=slots, queue=queue)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def normalised(password: str) -> str:
    """NFC, so that the same characters typed on another keyboard are the same password (NIST SP 800-63B-4 §3.1.1.2)."""
    return unicodedata.normalize("NFC", password)


def _step_back() -> None:
    """Let whatever else the process does go before hashing, where threads have priorities of their own (Linux)."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), HASHING_NICENESS)


def _hash_of_nothing() -> str:
    """A hash that no password has, and that costs as much to check as any."""
    salt, digest = (b64encode(os.urandom(size)).decode().rstrip("=") for size in (16, 32))
    return f"$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${salt}${digest}"
