"""Sessions that ended before their access tokens expire, as a service that accepts tokens knows them."""

import time
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from uuid import UUID


class RevokedSessions:
    """Sessions whose access tokens are good no more. Each is forgotten when the last of its tokens has expired.

    Whoever learns of them from elsewhere begins with `is_complete=False` and sets it once it knows all that there are:
    until then no token can be accepted.
    """

    def __init__(self, *, is_complete: bool = True) -> None:
        self.is_complete = is_complete
        self._until: dict[UUID, float] = {}
        self._next: list[tuple[float, UUID]] = []
        self._listeners: dict[object, Callable[[UUID], None]] = {}

    def __contains__(self, session_id: UUID) -> bool:
        until = self._until.get(session_id)
        return until is not None and until > time.time()

    def __len__(self) -> int:
        return len(self._until)

    def add(self, session_ids: Iterable[UUID], expires_at: float) -> None:
        """Sessions have ended; the last of their tokens expires at this Unix time. Every listener is told of each."""
        for session_id in session_ids:
            if self._until.get(session_id, 0.0) < expires_at:
                self._until[session_id] = expires_at
                heappush(self._next, (expires_at, session_id))
            for listener in tuple(self._listeners.values()):
                listener(session_id)
        self._forget_expired()

    def subscribe(self, listener: Callable[[UUID], None]) -> Callable[[], None]:
        """Have a function called, at once, with every session that is added; what this answers takes it out again."""
        key = object()
        self._listeners[key] = listener

        def unsubscribe() -> None:
            self._listeners.pop(key, None)

        return unsubscribe

    def _forget_expired(self) -> None:
        now = time.time()
        while self._next and self._next[0][0] <= now:
            until, session_id = heappop(self._next)
            if self._until.get(session_id) == until:  # and not a later one, which stands further back
                del self._until[session_id]
