"""Lists as every service gives them: newest first, a page at a time, with the total."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, bindparam, func, select, true
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute

from services.kit.pages import Page, PageRequest

_BEHIND_ALL_IDS = UUID(int=2**128 - 1)
R = TypeVar("R")


class NewestFirst(Generic[R]):
    """The rows of a table that meet the conditions, by falling id.

    `columns` begin with the id; `make` turns a row of them into what is listed. Conditions may have values by name,
    which `page` is given. Page and total come of one statement, and so of one snapshot.
    """

    def __init__(
        self,
        make: Callable[[Sequence[Any]], R],
        columns: Sequence[InstrumentedAttribute[Any]],
        *conditions: ColumnElement[bool],
    ) -> None:
        self._make = make
        key = columns[0]
        total = select(func.count().label("size")).select_from(key.class_).where(*conditions).subquery("total")
        page = (
            select(*columns)
            .where(key < bindparam("after"), *conditions)
            .order_by(key.desc())
            .limit(bindparam("limit"))
            .offset(bindparam("skip"))
            .subquery("page")
        )
        # The outer join keeps the total when the page is empty.
        joined = total.outerjoin(page, true())
        self._statement = select(total.c.size, *page.c).select_from(joined).order_by(page.c[0].desc())

    async def page(self, tx: AsyncConnection, page: PageRequest, **values: Any) -> Page[R]:
        """The page that was asked for."""
        # One more than fits tells whether there is another page.
        where = {"after": page.after or _BEHIND_ALL_IDS, "limit": page.size + 1, "skip": page.skip}
        found = (await tx.execute(self._statement, values | where)).all()
        rows = [columns[1:] for columns in found if columns[1] is not None]
        more = len(rows) > page.size
        rows = rows[: page.size]
        return Page([self._make(row) for row in rows], rows[-1][0] if more else None, total_size=found[0][0])
