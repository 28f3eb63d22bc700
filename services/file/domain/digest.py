"""What holds of all bytes of an upload: its SHA-256, its crc32c, and what kind of file it looks like."""

import hashlib
from collections.abc import Sequence

import google_crc32c

from services.file.content_types import sniff
from services.file.models import Buffer

SNIFFED_BYTES = 4096


class Digest:
    """Computed as the bytes go by, in their order. Blocking: it is used from the threads that store them."""

    def __init__(self) -> None:
        self.position = 0
        """How many bytes have gone by."""
        self.crc32c = 0
        self.content_type = ""
        """What the first bytes look like; empty if they tell nothing."""
        self._sha256 = hashlib.sha256()

    @property
    def sha256(self) -> bytes:
        """Of the bytes so far."""
        return self._sha256.digest()

    def take(self, data: Sequence[Buffer]) -> None:
        """Take the bytes that follow."""
        if self.position == 0:
            self.content_type = sniff(_head(data))
        for run in data:
            self._sha256.update(run)
            self.crc32c = google_crc32c.extend(self.crc32c, run)  # type: ignore[arg-type]  # it takes any buffer
            self.position += len(run)


def _head(data: Sequence[Buffer]) -> bytes:
    head = b""
    for run in data:
        head += bytes(run[: SNIFFED_BYTES - len(head)])
        if len(head) == SNIFFED_BYTES:
            break
    return head
