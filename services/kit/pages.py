"""Page tokens: where a list goes on (AIP-158), good for that list and those arguments only."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Generic, TypeVar
from uuid import UUID

from google.protobuf.message import Message

from services.kit import base64url
from services.kit.errors import PageTokenInvalid

MAX_PAGE_SIZE = 100
_CHECK_BYTES = 8

T = TypeVar("T")
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page: at most `size` items after the item `after`, passing over `skip`."""

    size: int
    skip: int
    after: UUID | None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Items of one page, the last item's key if there are more, and how many there are in all (same snapshot)."""

    items: Sequence[T]
    next_after: UUID | None
    total_size: int


def read_page(list_name: str, page_size: int, page_token: str, skip: int) -> PageRequest:
    """What a list request asks for. `list_name` says which list with which arguments, the caller included."""
    return PageRequest(
        size=page_size or MAX_PAGE_SIZE, skip=skip, after=_opened(list_name, page_token) if page_token else None
    )


def next_page_token(list_name: str, after: UUID | None) -> str:
    """The token for the page that follows `after`; empty when there is none."""
    if after is None:
        return ""
    return base64url.encode(after.bytes + _check(list_name, after.bytes))


def fitting(messages: Sequence[M], max_bytes: int) -> Sequence[M]:
    """As many of the first messages as have so many bytes, at least one. What is left out is for the next page."""
    size = 0
    for index, message in enumerate(messages):
        size += message.ByteSize()
        if size > max_bytes and index:
            return messages[:index]
    return messages


def _opened(list_name: str, token: str) -> UUID:
    try:
        raw = base64url.decode(token)
    except ValueError as error:
        raise PageTokenInvalid from error
    key, check = raw[:16], raw[16:]
    if len(key) != 16 or check != _check(list_name, key):
        raise PageTokenInvalid
    return UUID(bytes=key)


def _check(list_name: str, key: bytes) -> bytes:
    """Ties a key to its list. It guards against mistakes, not malice: every list is confined to its caller's rows."""
    return blake2b(key, digest_size=_CHECK_BYTES, key=blake2b(list_name.encode(), digest_size=32).digest()).digest()
