"""What goes wrong at a provider that is asked over HTTP: which fault it is, and whether asking again may help."""

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from services.agent.providers import Fault, ProviderFailure

LONGEST_WAIT = 60.0
"""Seconds. A provider that wants more than this until it is asked again has failed."""

_LONGEST_TEXT = 1000
_PASSING = frozenset({Fault.UNAVAILABLE, Fault.OVERLOADED, Fault.INTERRUPTED})
_TOO_MUCH_TO_DO = frozenset({429, 529})


class RemoteFailure(ProviderFailure):
    """A ProviderFailure that knows whether asking again may help, and when."""

    def __init__(self, fault: Fault, text: str, *, passes: bool | None = None, wait: float = 0.0) -> None:
        super().__init__(fault, text[:_LONGEST_TEXT])
        self.passes = fault in _PASSING if passes is None else passes
        """Whether asking again may help."""
        self.wait = wait
        """Seconds until then, if the provider has said."""


def of_status(status: int, said: str, headers: Mapping[str, str]) -> RemoteFailure:
    """The provider answered with an error: in HTTP's terms this one, in its own words this."""
    wait = _retry_after(headers)
    # Both companies' APIs say with this header, which is theirs alone, what is not worth a second try.
    hopeless = wait > LONGEST_WAIT or headers.get("x-should-retry") == "false"
    return RemoteFailure(_fault_of(status), f"{status}: {said}", passes=False if hopeless else None, wait=wait)


def _fault_of(status: int) -> Fault:
    if status in _TOO_MUCH_TO_DO:
        return Fault.OVERLOADED
    return Fault.UNAVAILABLE if status >= 500 else Fault.REFUSED


def of_transport(error: BaseException, *, begun: bool) -> RemoteFailure:
    """The connection failed, before or after the answer had begun. A wait for its next byte may have been too long."""
    import httpx2  # noqa: PLC0415  # comes with the extras that may not be installed

    while not isinstance(error, httpx2.HTTPError) and error.__cause__ is not None:
        error = error.__cause__  # an SDK wraps it, or does not
    name = type(error).__name__
    if isinstance(error, httpx2.ConnectError):
        return RemoteFailure(Fault.UNAVAILABLE, f"{name}: {error}")
    if isinstance(error, httpx2.TimeoutException) and not isinstance(error, httpx2.ConnectTimeout):
        return RemoteFailure(Fault.SILENT, name)
    if isinstance(error, httpx2.DecodingError):
        return RemoteFailure(Fault.GARBLED, name)
    # Other texts are not repeated: of a header that cannot be sent they show the value.
    return RemoteFailure(Fault.INTERRUPTED if begun else Fault.UNAVAILABLE, name)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds until a provider wants to be asked again (RFC 9110, 10.2.3, and with milliseconds); 0 for no word."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        hint = headers.get("retry-after", "0")
        try:
            return max(0.0, float(hint))
        except ValueError:
            return max(0.0, parsedate_to_datetime(hint).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
