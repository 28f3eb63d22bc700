"""Pages of things that may be large."""

from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from services.kit.pages import Page, next_page_token

# A gRPC client takes 4 MiB by default, and a hundred agents or executions can have far more.
MAX_LIST_BYTES = 3 * 1024 * 1024

T = TypeVar("T")


def token_behind(list_name: str, page: Page[T], shown: int, id_of: Callable[[T], UUID]) -> str:
    """The token for what comes behind the items that are shown: of large ones fewer than the page has."""
    after = page.next_after if shown == len(page.items) else id_of(page.items[shown - 1])
    return next_page_token(list_name, after, page.keys[shown - 1] if page.keys else ())
