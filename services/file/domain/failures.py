"""What the store's failures are to a client."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import structlog

from services.file.errors import StoredDataLost, StoreUnavailable
from services.file.store import PartLost, StoreFailed

log = structlog.get_logger()


@contextmanager
def told_to_the_client(upload_id: UUID) -> Iterator[None]:
    """StoreFailed comes out as StoreUnavailable and PartLost as StoredDataLost; the log has what happened."""
    try:
        yield
    except StoreFailed as error:
        log.warning("store failed", upload_id=str(upload_id), cause=str(error))
        raise StoreUnavailable from error
    except PartLost as error:
        log.critical("stored data lost", upload_id=str(upload_id), cause=str(error))
        raise StoredDataLost from error
