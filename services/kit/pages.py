"""Page tokens: where a list goes on (AIP-158), good for that list and those arguments only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Generic, TypeVar
from uuid import UUID

from google.protobuf.message import Message

from services.kit import base64url
from services.kit.errors import PageTokenInvalid

MAX_PAGE_SIZE = 100
# A gRPC client takes 4 MiB by default, and a hundred items can have far more.
MAX_LIST_BYTES = 3 * 1024 * 1024
_ID_BYTES = 16
_CHECK_BYTES = 8

T = TypeVar("T")
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page: at most `size` items after the item `after`, passing over `skip`.

    `keys` is what the list was ordered by before that item's id, as text; see `services.kit.ordering`.
    """

    size: int
    skip: int
    after: UUID | None
    keys: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Items of one page, the last item's id if there are more, and how many there are in all (same snapshot).

    `keys` has for each item what the list is ordered by before its id, as text; it is empty for lists by id alone.
    """

    items: Sequence[T]
    next_after: UUID | None
    total_size: int
    keys: Sequence[Sequence[str]] = ()


def read_page(list_name: str, page_size: int, page_token: str, skip: int) -> PageRequest:
    """What a list request asks for. `list_name` says which list with which arguments, the caller included."""
    after, keys = _opened(list_name, page_token) if page_token else (None, ())
    return PageRequest(size=page_size or MAX_PAGE_SIZE, skip=skip, after=after, keys=keys)


def next_page_token(list_name: str, after: UUID | None, keys: Sequence[str] = ()) -> str:
    """The token for the page that follows `after`, which has these keys; empty when there is none."""
    if after is None:
        return ""
    # PostgreSQL's texts hold no NUL, so that one can go before each.
    position = after.bytes + "".join(f"\0{key}" for key in keys).encode()
    return base64url.encode(position + _check(list_name, position))


def fitting(messages: Sequence[M], max_bytes: int) -> Sequence[M]:
    """As many of the first messages as have so many bytes, at least one. What is left out is for the next page."""
    size = 0
    for index, message in enumerate(messages):
        size += message.ByteSize()
        if size > max_bytes and index:
            return messages[:index]
    return messages


def token_behind(list_name: str, page: Page[T], shown: int, id_of: Callable[[T], UUID]) -> str:
    """The token for what comes behind the items that are shown: of large ones fewer than the page has."""
    after = page.next_after if shown == len(page.items) else id_of(page.items[shown - 1])
    return next_page_token(list_name, after, page.keys[shown - 1] if page.keys else ())


def _opened(list_name: str, token: str) -> tuple[UUID, Sequence[str]]:
    try:
        raw = base64url.decode(token)
        position, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
        before, *keys = position[_ID_BYTES:].decode().split("\0")
    except ValueError as error:
        raise PageTokenInvalid from error
    if len(position) < _ID_BYTES or before or check != _check(list_name, position):
        raise PageTokenInvalid
    return UUID(bytes=position[:_ID_BYTES]), tuple(keys)


def _check(list_name: str, position: bytes) -> bytes:
    """Ties a position to its list. Against mistakes, not malice: every list is confined to its caller's rows."""
    list_key = blake2b(list_name.encode(), digest_size=32).digest()
    return blake2b(position, digest_size=_CHECK_BYTES, key=list_key).digest()
