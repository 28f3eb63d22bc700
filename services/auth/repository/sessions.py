"""Sessions and their refresh tokens."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.dialects.postgresql import TIMESTAMP, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.models.sessions import RefreshToken, RefreshTokenTable, Session, SessionTable
from services.kit.listing import NewestFirst
from services.kit.origin import Origin
from services.kit.pages import Page, PageRequest
from services.kit.prepared import Prepared

_SESSION = tuple(SessionTable.__table__.columns[name] for name in Session._fields)
_TOKEN = tuple(RefreshTokenTable.__table__.columns[name] for name in RefreshToken._fields)
_LIST = NewestFirst(
    Session._make,
    [getattr(SessionTable, name) for name in Session._fields],
    SessionTable.user_id == bindparam("user_id"),
    SessionTable.revoke_time.is_(None),
    SessionTable.expire_time > bindparam("now"),
)
_now = bindparam("now", type_=TIMESTAMP(timezone=True))
_LIVE = (
    SessionTable.user_id == bindparam("whose"),
    SessionTable.revoke_time.is_(None),
    SessionTable.expire_time > _now,
)
_SURPLUS = (
    select(SessionTable.id)
    .where(*_LIVE)
    .order_by(SessionTable.last_use_time.desc(), SessionTable.id.desc())
    .offset(bindparam("kept"))
)
_END_LEAST_USED = Prepared(
    update(SessionTable)
    .where(SessionTable.id.in_(_SURPLUS), SessionTable.revoke_time.is_(None))
    .values(revoke_time=_now)
    .returning(SessionTable.id)
)
_ADD = Prepared(insert(SessionTable).values({name: bindparam(name) for name in Session._fields}))
_ADD_TOKEN = Prepared(
    insert(RefreshTokenTable).values({name: bindparam(name) for name in ("token_hash", "session_id", "create_time")})
)


class Sessions:
    """Sessions and their refresh tokens, within one transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def add(self, session: Session) -> None:
        """Store a session."""
        await _ADD.run(self._tx, session._asdict())

    async def get(self, session_id: UUID) -> Session | None:
        """The session with this id."""
        row = (await self._tx.execute(select(*_SESSION).where(SessionTable.id == session_id))).one_or_none()
        return None if row is None else Session(*row)

    async def lock_by_token(self, token_hash: bytes) -> tuple[Session, RefreshToken] | None:
        """The session and refresh token of this hash; the session stays locked until the transaction ends."""
        is_this = RefreshTokenTable.token_hash == token_hash
        owner = select(RefreshTokenTable.session_id).where(is_this).scalar_subquery()
        session = (
            await self._tx.execute(select(*_SESSION).where(SessionTable.id == owner).with_for_update())
        ).one_or_none()
        if session is None:
            return None
        # Read only now: whoever held the lock before may have exchanged it.
        token = (await self._tx.execute(select(*_TOKEN).where(is_this))).one()
        return Session(*session), RefreshToken(*token)

    async def add_token(self, token_hash: bytes, session_id: UUID, now: datetime) -> None:
        """Store a refresh token that is given out."""
        await _ADD_TOKEN.run(self._tx, {"token_hash": token_hash, "session_id": session_id, "create_time": now})

    async def is_exchanged(self, token_hash: bytes) -> bool:
        """Whether this refresh token has been exchanged."""
        statement = select(RefreshTokenTable.exchange_time).where(RefreshTokenTable.token_hash == token_hash)
        return (await self._tx.execute(statement)).scalar_one_or_none() is not None

    async def exchange(self, token_hash: bytes, request_id: UUID | None, now: datetime) -> None:
        """Mark a refresh token as used up."""
        await self._tx.execute(
            update(RefreshTokenTable)
            .where(RefreshTokenTable.token_hash == token_hash)
            .values(exchange_time=now, request_id=request_id)
        )

    async def use(self, session_id: UUID, expire_time: datetime, origin: Origin, now: datetime) -> Session:
        """Take down that a session is used, from where, and until when it lives then."""
        values = {"expire_time": expire_time, "last_use_time": now, **origin._asdict()}
        statement = update(SessionTable).where(SessionTable.id == session_id).values(values).returning(*_SESSION)
        return Session(*(await self._tx.execute(statement)).one())

    async def list_live(self, user_id: UUID, page: PageRequest, now: datetime) -> Page[Session]:
        """A page of a user's sessions that have neither ended nor expired, newest first."""
        return await _LIST.page(self._tx, page, user_id=user_id, now=now)

    async def end(
        self, user_id: UUID, now: datetime, *, only: UUID | None = None, but: UUID | None = None
    ) -> Sequence[UUID]:
        """End a user's sessions, `only` one, or all `but` one; those that had neither ended nor expired yet."""
        statement = update(SessionTable).where(*_LIVE)
        if only is not None:
            statement = statement.where(SessionTable.id == only)
        if but is not None:
            statement = statement.where(SessionTable.id != but)
        statement = statement.values(revoke_time=_now)
        ended = await self._tx.execute(statement.returning(SessionTable.id), {"whose": user_id, "now": now})
        return ended.scalars().all()

    async def end_least_used(self, user_id: UUID, now: datetime, *, kept: int) -> Sequence[UUID]:
        """End a user's live sessions but for so many that were used last; which."""
        ended = await _END_LEAST_USED.all(self._tx, {"whose": user_id, "now": now, "kept": kept})
        return [session_id for (session_id,) in ended]

    async def delete_exchanged_tokens(self, before: datetime) -> int:
        """Remove refresh tokens that were used up before a time; how many. Presented again they are unknown."""
        statement = delete(RefreshTokenTable).where(RefreshTokenTable.exchange_time < before)
        return (await self._tx.execute(statement)).rowcount

    async def delete_expired(self, before: datetime) -> int:
        """Remove sessions that expired before a time, and their tokens; how many."""
        return (await self._tx.execute(delete(SessionTable).where(SessionTable.expire_time < before))).rowcount
