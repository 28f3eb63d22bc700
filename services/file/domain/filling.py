"""A part that fills."""

import google_crc32c

SMALL_RUN = 32 * 1024
"""Runs of bytes below this are put together: each by itself would cost a multiple of its bytes when they are tiny."""
JOINED_RUN = 256 * 1024


class Filling:
    """The bytes of a part until it is whole: large runs as they came, small ones joined."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.size = 0
        self.crc32c = 0
        self._runs: list[bytes] = []
        self._small = bytearray()

    def add(self, data: bytes) -> None:
        """Take the bytes that follow."""
        self.crc32c = google_crc32c.extend(self.crc32c, data)
        self.size += len(data)
        if len(data) < SMALL_RUN:
            self._small += data
            if len(self._small) >= JOINED_RUN:
                self._join()
        else:
            self._join()
            self._runs.append(data)

    def taken(self) -> tuple[int, int, int, list[bytes]]:
        """Where it begins, how long it is, its crc32c, and its bytes; nothing can be added any more."""
        self._join()
        return self.offset, self.size, self.crc32c, self._runs

    def holds(self, offset: int, data: bytes) -> bool:
        """Whether it has these bytes at this offset of the upload, which lie within it."""
        at, left = offset - self.offset, memoryview(data)
        for run in (*self._runs, self._small):  # As they are: joined for each comparison, they would stay tiny.
            if at < len(run):
                same = min(len(left), len(run) - at)
                if left[:same] != run[at : at + same]:
                    return False
                left = left[same:]
                if not left:
                    return True
            at = max(at - len(run), 0)
        return False

    def _join(self) -> None:
        if self._small:
            self._runs.append(bytes(self._small))
            self._small.clear()
