"""A store behind obstore: S3, Google Cloud Storage, Azure, or memory."""

from collections.abc import Iterator, Sequence

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from services.file.store.obstore_errors import is_without_bucket, summary
from services.file.store.protocol import PAGE_OBJECTS, Buffer, PartMissing, StoredObject, StoreFailed, other_size


class Bucket:
    """A store behind obstore: S3, Google Cloud Storage, Azure, or memory."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def put(self, key: str, data: Sequence[Buffer]) -> None:
        """As Store.put, in one request."""
        try:
            # One piece is sent from where it is; of several, obstore keeps the list and joins nothing.
            obstore.put(self._objects, key, data[0] if len(data) == 1 else data, use_multipart=False)
        except (OSError, BaseError) as error:
            raise StoreFailed(summary(error)) from error

    def get(self, key: str) -> bytes:
        """As Store.get."""
        try:
            return bytes(obstore.get(self._objects, key).bytes())
        except FileNotFoundError as error:
            if is_without_bucket(error):
                raise StoreFailed(summary(error)) from error
            raise PartMissing(f"part {key} is not there") from error
        except (OSError, BaseError) as error:
            raise StoreFailed(summary(error)) from error

    def read(self, key: str, sizes: Sequence[int]) -> Iterator[bytes]:
        """As Store.read; of all that is there, in one request."""
        data = self.get(key)
        if len(data) != sum(sizes):
            raise other_size(key, len(data), sum(sizes))
        at = 0
        for size in sizes:
            yield data[at : at + size]
            at += size

    def delete(self, keys: Sequence[str]) -> None:
        """As Store.delete."""
        try:
            try:
                obstore.delete(self._objects, list(keys))
            except FileNotFoundError:  # Some stores stop there; so one by one.
                for key in keys:
                    self._delete_one(key)
        except (OSError, BaseError) as error:
            raise StoreFailed(summary(error)) from error

    def _delete_one(self, key: str) -> None:
        try:
            obstore.delete(self._objects, key)
        except FileNotFoundError as error:
            if is_without_bucket(error):
                raise

    def list(self, after: str = "") -> Iterator[Sequence[StoredObject]]:
        """As Store.list."""
        try:
            for page in obstore.list(self._objects, offset=after or None, chunk_size=PAGE_OBJECTS):
                yield [StoredObject(found["path"], found["size"], found["last_modified"]) for found in page]
        except (OSError, BaseError) as error:
            raise StoreFailed(summary(error)) from error
