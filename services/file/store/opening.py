"""Opening the store that a URL names."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from services.file.store.bucket import Bucket
from services.file.store.folder import Folder, fsync_folder
from services.file.store.obstore_errors import is_refusal, summary
from services.file.store.parts import PartStore
from services.file.store.protocol import Store
from services.kit.settings import SettingUnusable

log = structlog.get_logger()

CONNECT_SECONDS = 5.0
LOOK_SECONDS = 5.0
MAX_RETRIES = 5


@asynccontextmanager
async def open_parts(url: str, *, threads: int, timeout: float = 20.0) -> AsyncIterator[PartStore]:
    """The store at a URL, used with so many threads; a request to an object store may take `timeout` seconds.

    A folder is created. An object store is looked at: raises SettingUnusable if it refuses, as it will go on to do. One
    that cannot be reached is opened all the same, since it may come back; until then its parts are StoreFailed.
    """
    try:
        store = await asyncio.to_thread(open_store, url, timeout)
    except (OSError, BaseError, ValueError) as error:
        raise SettingUnusable(f"PARLEY_FILE_STORE_URL: the store cannot be opened: {summary(error)}") from error
    pool = ThreadPoolExecutor(threads, thread_name_prefix="store")
    try:
        yield PartStore(store, pool, patience=timeout)
    finally:
        await asyncio.to_thread(pool.shutdown)


def open_store(url: str, timeout: float) -> Store:
    """The store at a URL. Raises what made it impossible: OSError, BaseError, ValueError."""
    parts = urlsplit(url)
    if parts.scheme != "file":
        _look_at(objects_at(url, min(timeout, LOOK_SECONDS)))
        return Bucket(objects_at(url, timeout))
    root = Path(unquote(parts.path))
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in missing or [root]:
        fsync_folder(folder.parent)
    return Folder(root)


def objects_at(url: str, timeout: float) -> ObjectStore:
    """What obstore makes of a URL and the environment; what it cannot do fails after 1.5 times the timeout.

    Without bounds of its own a request would be repeated for three minutes. An endpoint with http:// was named by the
    operator and is meant.
    """
    return from_url(
        url,
        client_options={
            "allow_http": True,
            "connect_timeout": timedelta(seconds=min(timeout, CONNECT_SECONDS)),
            "timeout": timedelta(seconds=timeout),
        },
        retry_config={"max_retries": MAX_RETRIES, "retry_timeout": timedelta(seconds=timeout / 2)},
    )


def _look_at(objects: ObjectStore) -> None:
    try:
        next(iter(obstore.list(objects, chunk_size=1)), None)
    except (OSError, BaseError) as error:
        if is_refusal(error):
            raise
        log.warning("store cannot be reached yet", cause=summary(error))
