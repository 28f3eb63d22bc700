"""The call in hand: what the calls that are made on its behalf pass on."""

from contextvars import ContextVar
from typing import Protocol


class CallInHand(Protocol):
    """What a call that is being handled has to pass on."""

    @property
    def token(self) -> str | None:
        """Its access token; None for a call without, or one that is over."""

    @property
    def request_id(self) -> str:
        """What its log lines are found by."""

    @property
    def is_over(self) -> bool:
        """Whether nothing is to be done on its behalf any more."""

    def time_remaining(self) -> float | None:
        """Seconds until its deadline; None without one."""


# Set by the wrapper in the call's own task, which ends with the call: nobody has to set it back.
CURRENT: ContextVar[CallInHand | None] = ContextVar("CURRENT", default=None)


def current_call() -> CallInHand | None:
    """The call that this task, or the task that started it, is handling; None if there is none or it is over."""
    call = CURRENT.get()
    return None if call is None or call.is_over else call
