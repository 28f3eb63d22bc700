"""Lists as every service gives them: newest first or as was asked for, a page at a time, with the total."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Select, bindparam, func, select, true
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute

from services.kit.ordering import Order
from services.kit.pages import Page, PageRequest
from services.kit.prepared import Prepared

_BEHIND_ALL_IDS = UUID(int=2**128 - 1)
R = TypeVar("R")


class NewestFirst(Generic[R]):
    """The rows of a table that meet the conditions, by falling id.

    `columns` begin with the id; `make` turns a row of them into what is listed. Conditions may have values by name,
    which `page` is given; it may be given more conditions, such as those of a filter, and an order by some of the
    columns, in which the id decides between equals only. Page and total come of one statement, and so of one snapshot.

    A `hot` list is read with a prepared statement where it is asked for as it is: see `services.kit.prepared`.
    """

    def __init__(
        self,
        make: Callable[[Sequence[Any]], R],
        columns: Sequence[InstrumentedAttribute[Any]],
        *conditions: ColumnElement[bool],
        hot: bool = False,
    ) -> None:
        self._make = make
        self._columns = columns
        self._names = [column.key for column in columns]
        self._conditions = conditions
        self._statement = self._select(conditions)
        self._prepared = Prepared(self._statement) if hot else None

    async def page(
        self,
        tx: AsyncConnection,
        page: PageRequest,
        *conditions: ColumnElement[bool],
        order: Order | None = None,
        **values: Any,
    ) -> Page[R]:
        """The page that was asked for, of the rows that meet these conditions besides.

        Raises PageTokenInvalid for a position that is none in this order.
        """
        # One more than fits tells whether there is another page.
        values |= {"after": page.after or _BEHIND_ALL_IDS, "limit": page.size + 1, "skip": page.skip}
        if conditions or order:
            statement = self._select((*self._conditions, *conditions), order, page)
            found: Sequence[Sequence[Any]] = (await tx.execute(statement, values)).all()
        elif self._prepared:
            found = await self._prepared.all(tx, values)
        else:
            found = (await tx.execute(self._statement, values)).all()
        rows = [columns[1:] for columns in found if columns[1] is not None]
        more = len(rows) > page.size
        rows = rows[: page.size]
        return Page(
            [self._make(row) for row in rows],
            rows[-1][0] if more else None,
            total_size=found[0][0],
            keys=[order.keys_of(dict(zip(self._names, row, strict=True))) for row in rows] if order else (),
        )

    def _select(
        self, conditions: Sequence[ColumnElement[bool]], order: Order | None = None, asked: PageRequest | None = None
    ) -> Select[Any]:
        key = self._columns[0]
        behind: ColumnElement[bool] = key < bindparam("after")
        if order and asked:
            behind = order.behind(asked.keys, behind) if asked.after else true()
        total = select(func.count().label("size")).select_from(key.class_).where(*conditions).subquery("total")
        page = (
            select(*self._columns)
            .where(behind, *conditions)
            .order_by(*_clauses(order, {column.key: column.expression for column in self._columns}, key.expression))
            .limit(bindparam("limit"))
            .offset(bindparam("skip"))
            .subquery("page")
        )
        # The outer join keeps the total when the page is empty.
        joined = total.outerjoin(page, true())
        by = _clauses(order, {column.key: column for column in page.c}, page.c[0])
        return select(total.c.size, *page.c).select_from(joined).order_by(*by)


def _clauses(order: Order | None, columns: Mapping[str, ColumnElement[Any]], key: ColumnElement[Any]) -> list[Any]:
    return [*(order.clauses(columns) if order else ()), key.desc()]
