"""How the C library gives out memory, for processes that big buffers go through."""

import ctypes
import sys
from contextlib import suppress

# Numbers from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGEST_BUFFER = 32 * 1024 * 1024
_KEPT = 64 * 1024 * 1024


def keep_freed_memory() -> None:
    """Let this process use the memory of big buffers again. To be called before it has threads.

    glibc otherwise gives that of each back to the kernel, which hands it out again page by page, all zeroed: that is
    four fifths of what it costs to read a file. For it, up to 64 MiB are kept in all, and what lies below something
    that is used.
    Elsewhere than on glibc nothing happens.
    """
    if sys.platform != "linux":
        return
    with suppress(AttributeError):  # musl has no such function.
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BUFFER)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        # One arena for all threads: each would keep as much, and a buffer is seldom freed where it was made.
        mallopt(_M_ARENA_MAX, 1)
