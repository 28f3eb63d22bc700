"""Where bytes are kept: a folder of this machine, or an object store that obstore speaks to.

Either is used from threads: obstore's own event loop ends badly with a process that exits, and a disk blocks anyway.
"""

from services.file.store.bucket import Bucket
from services.file.store.folder import Folder
from services.file.store.opening import open_parts
from services.file.store.parts import PartStore
from services.file.store.protocol import Buffer, PartLost, PartMissing, Store, StoredObject, StoreFailed

__all__ = [
    "Bucket",
    "Buffer",
    "Folder",
    "PartLost",
    "PartMissing",
    "PartStore",
    "Store",
    "StoreFailed",
    "StoredObject",
    "open_parts",
]
