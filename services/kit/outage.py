"""Saying once that something is away and once that it is back, however often it was tried in between."""

from time import monotonic

import structlog

log = structlog.get_logger()

NEWS_AFTER = 3.0


class Outage:
    """The state of something that may be away. A short absence, such as a restart, is not told of at all."""

    def __init__(self, away: str, back: str) -> None:
        self._away = away
        self._back = back
        self._since: float | None = None
        self._told = False

    def goes_on(self, **fields: object) -> None:
        """It was tried and is away; the fields say how that showed."""
        now = monotonic()
        if self._since is None:
            self._since = now
        if not self._told and now - self._since >= NEWS_AFTER:
            self._told = True
            log.warning(self._away, **fields)

    def is_over(self) -> None:
        """It was tried and is there."""
        if self._told and self._since is not None:
            log.info(self._back, seconds=round(monotonic() - self._since, 1))
        self._since = None
        self._told = False
