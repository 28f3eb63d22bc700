"""What holds of all bytes of an upload: its SHA-256, its crc32c, and what kind of file it looks like."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from uuid import UUID

import google_crc32c

from services.file.content_types import SNIFFED_BYTES, sniff


class Digest:
    """Computed as the bytes go by, in their order. Blocking: it is used from threads."""

    def __init__(self) -> None:
        self.position = 0
        """How many bytes have gone by."""
        self.crc32c = 0
        self._head = b""
        self._sha256 = hashlib.sha256()

    @property
    def content_type(self) -> str:
        """What the first bytes look like; empty if they tell nothing."""
        return sniff(self._head)

    @property
    def sha256(self) -> bytes:
        """Of the bytes so far."""
        return self._sha256.digest()

    def take(self, runs: Sequence[bytes]) -> None:
        """Take the bytes that follow."""
        for run in runs:
            if len(self._head) < SNIFFED_BYTES:  # However they are cut: the first run may be a single byte.
                self._head += bytes(run[: SNIFFED_BYTES - len(self._head)])
            self._sha256.update(run)
            self.crc32c = google_crc32c.extend(self.crc32c, run)
            self.position += len(run)

    def take_one(self, run: bytes) -> None:
        """The same with one run of bytes."""
        self.take((run,))

    def copy(self) -> "Digest":
        """The same at this position, whatever the other takes from now on."""
        other = Digest()
        other.position, other.crc32c, other._head = self.position, self.crc32c, self._head
        other._sha256 = self._sha256.copy()
        return other


class Digests:
    """The digests of uploads that were cut, for those of them that go on in this process."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[UUID, Digest] = OrderedDict()

    def keep(self, upload_id: UUID, digest: Digest) -> None:
        """Keep it, in place of the one that was kept the longest if there are too many."""
        self._kept[upload_id] = digest
        self._kept.move_to_end(upload_id)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def take(self, upload_id: UUID, persisted: int) -> Digest:
        """What was kept, if it is of bytes that are persisted; otherwise one that begins at the beginning."""
        digest = self._kept.pop(upload_id, None)
        return digest if digest is not None and digest.position <= persisted else Digest()
