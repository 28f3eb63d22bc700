"""A store that fails some of its calls, slowly, and sometimes after having done what it says it could not do.

faults = inject(monkeypatch, Faults(failing=0.01))   # before the service starts
...
faults.stop()                                        # from here on it is sound
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeVar

import pytest

from services.file.store import Buffer, Store, StoredObject, StoreFailed
from services.file.store.opening import open_store

T = TypeVar("T")


@dataclass
class Faults:
    """What goes wrong; it may be changed while the store is in use."""

    failing: float = 0.0
    """The share of calls that fail and do nothing."""
    failing_after: float = 0.0
    """The share of calls that fail although they did what was asked: an answer that was lost."""
    slow_seconds: float = 0.0
    """What a call takes longer at the most."""
    seed: int = 1
    failed: int = 0
    """How many calls have failed because of this."""
    _random: random.Random = field(init=False)
    _lock: Lock = field(init=False, default_factory=Lock)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def stop(self) -> None:
        """From here on nothing goes wrong."""
        self.failing = self.failing_after = self.slow_seconds = 0.0

    def around(self, work: Callable[[], T]) -> T:
        """Do it, or not, or do it and say that it failed."""
        with self._lock:
            delay = self._random.uniform(0, self.slow_seconds)
            fails = self._random.random() < self.failing
            fails_after = not fails and self._random.random() < self.failing_after
            self.failed += fails or fails_after
        time.sleep(delay)
        if fails:
            raise StoreFailed("injected, and nothing was done")
        result = work()
        if fails_after:
            raise StoreFailed("injected, after it was done")
        return result


class FaultyStore:
    """A store with these faults; each page of a list is a call."""

    def __init__(self, store: Store, faults: Faults) -> None:
        self._store = store
        self._faults = faults

    def put(self, key: str, data: Sequence[Buffer]) -> None:
        self._faults.around(lambda: self._store.put(key, data))

    def get(self, key: str) -> bytes:
        return self._faults.around(lambda: self._store.get(key))

    def read(self, key: str, sizes: Sequence[int]) -> Iterator[bytes]:
        return iter(self._faults.around(lambda: list(self._store.read(key, sizes))))

    def delete(self, keys: Sequence[str]) -> None:
        self._faults.around(lambda: self._store.delete(keys))

    def list(self, after: str = "") -> Iterator[Sequence[StoredObject]]:
        pages = self._store.list(after)
        while page := self._faults.around(lambda: next(pages, None)):
            yield page


def inject(monkeypatch: pytest.MonkeyPatch, faults: Faults) -> Faults:
    """Give these faults to every store that is opened from here on in this test; answers with them."""
    monkeypatch.setattr(
        "services.file.store.opening.open_store", lambda url, timeout: FaultyStore(open_store(url, timeout), faults)
    )
    return faults
