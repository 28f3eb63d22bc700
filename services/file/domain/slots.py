"""How much of one kind of work this process takes at a time, and how much of it one user gets."""

from collections import Counter
from datetime import timedelta
from uuid import UUID

from services.kit.errors import Overloaded


class Slots:
    """A bound for the process, and one for each user, so that nobody takes all there is."""

    def __init__(self, *, in_the_process: int, for_a_user: int) -> None:
        self._in_the_process = in_the_process
        self._for_a_user = for_a_user
        self._taken: Counter[UUID] = Counter()

    def take(self, user_id: UUID) -> None:
        """Take a slot, which must be given back. Raises Overloaded."""
        if self._taken.total() >= self._in_the_process or self._taken[user_id] >= self._for_a_user:
            raise Overloaded(retry_after=timedelta(seconds=1))
        self._taken[user_id] += 1

    def give_back(self, user_id: UUID) -> None:
        """The slot is free again."""
        self._taken[user_id] -= 1
        if not self._taken[user_id]:
            del self._taken[user_id]
