"""Agents with FastAPI, pydantic, SQLAlchemy's async ORM and PyJWT, put together the way it usually is.

It has the same table as the agent service, checks the same access tokens, keeps the same rules, and gives the same
fields.
"""

import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from fastapi import Depends, FastAPI, HTTPException, Query, status
from fastapi.security import OAuth2PasswordBearer
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import TIMESTAMP, ForeignKey, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.kit.ids import uuid7


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="PEER_")

    database_url: str
    pool_size: int
    public_key: str
    issuer: str
    audience: str
    max_agents: int


settings = Settings()
engine = create_async_engine(settings.database_url, pool_size=settings.pool_size, max_overflow=0)
new_session = async_sessionmaker(engine, expire_on_commit=False)
public_key = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(settings.public_key + "=="))
bearer = OAuth2PasswordBearer(tokenUrl="token")
app = FastAPI()


class Base(DeclarativeBase):
    type_annotation_map = {datetime: TIMESTAMP(timezone=True)}  # noqa: RUF012  # as SQLAlchemy's manual has it


class Agent(Base):
    __tablename__ = "agents"
    __table_args__ = {"schema": "agent"}  # noqa: RUF012  # as SQLAlchemy's manual has it

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    name: Mapped[str]
    description: Mapped[str]
    model_name: Mapped[str]
    system_prompt: Mapped[str]
    config: Mapped[dict[str, Any]] = mapped_column(JSONB)
    is_active: Mapped[bool]
    revision: Mapped[int]
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]
    delete_time: Mapped[datetime | None]

    @property
    def etag(self) -> str:
        return f"{self.revision}-{self.id.hex[-12:]}"


class AgentRevision(Base):
    __tablename__ = "revisions"
    __table_args__ = {"schema": "agent"}  # noqa: RUF012  # as SQLAlchemy's manual has it

    agent_id: Mapped[UUID] = mapped_column(ForeignKey(Agent.id), primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    description: Mapped[str]
    model_name: Mapped[str]
    system_prompt: Mapped[str]
    config: Mapped[dict[str, Any]] = mapped_column(JSONB)
    is_active: Mapped[bool]
    create_time: Mapped[datetime]


def _of_bounded_size(config: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(config)) > 64 * 1024:
        raise ValueError("must be at most 65536 bytes as JSON")
    return config


class AgentIn(BaseModel):
    name: str = Field(min_length=3, max_length=64, pattern=r"\S")
    description: str = Field("", max_length=2000)
    model_name: str = Field(min_length=1, max_length=100)
    system_prompt: str = Field(min_length=10, max_length=32768)
    config: Annotated[dict[str, Any], AfterValidator(_of_bounded_size)] = {}
    is_active: bool = True


class AgentOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    user_id: UUID
    name: str
    description: str
    model_name: str
    system_prompt: str
    config: dict[str, Any]
    is_active: bool
    revision: int
    etag: str
    create_time: datetime
    update_time: datetime


class AgentPage(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    agents: list[AgentOut]
    next_after: UUID | None
    total_size: int


async def get_session() -> AsyncIterator[AsyncSession]:
    async with new_session() as session:
        yield session


async def get_current_user_id(token: Annotated[str, Depends(bearer)]) -> UUID:
    try:
        claims = jwt.decode(token, public_key, algorithms=["EdDSA"], audience=settings.audience, issuer=settings.issuer)
        return UUID(claims["sub"])
    except (jwt.InvalidTokenError, KeyError, ValueError) as error:
        raise HTTPException(status.HTTP_401_UNAUTHORIZED, "Invalid token") from error


UserId = Annotated[UUID, Depends(get_current_user_id)]
Session = Annotated[AsyncSession, Depends(get_session)]


@app.get("/agents/{agent_id}", response_model=AgentOut)
async def get_agent(agent_id: UUID, user_id: UserId, session: Session) -> Agent:
    agent = await session.scalar(
        select(Agent).where(Agent.id == agent_id, Agent.user_id == user_id, Agent.delete_time.is_(None))
    )
    if agent is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "No such agent")
    return agent


@app.get("/agents", response_model=AgentPage)
async def list_agents(
    user_id: UserId,
    session: Session,
    page_size: Annotated[int, Query(ge=1, le=100)] = 100,
    after: UUID | None = None,
) -> dict[str, Any]:
    own = (Agent.user_id == user_id, Agent.delete_time.is_(None))
    page = select(Agent).where(*own).order_by(Agent.id.desc()).limit(page_size + 1)
    if after is not None:
        page = page.where(Agent.id < after)
    agents = (await session.scalars(page)).all()
    total = await session.scalar(select(func.count()).select_from(Agent).where(*own))
    more = len(agents) > page_size
    agents = agents[:page_size]
    return {"agents": agents, "next_after": agents[-1].id if more else None, "total_size": total}


@app.post("/agents", response_model=AgentOut, status_code=status.HTTP_201_CREATED)
async def create_agent(draft: AgentIn, user_id: UserId, session: Session) -> Agent:
    # The limit holds when several are created at once.
    await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"agent:{user_id}", 0))))
    own = (Agent.user_id == user_id, Agent.delete_time.is_(None))
    if (await session.scalar(select(func.count()).select_from(Agent).where(*own)) or 0) >= settings.max_agents:
        raise HTTPException(status.HTTP_409_CONFLICT, "Too many agents")
    now, content = datetime.now(UTC), draft.model_dump()
    agent = Agent(
        id=uuid7(), user_id=user_id, **content, revision=1, create_time=now, update_time=now, delete_time=None
    )
    session.add_all([agent, AgentRevision(agent_id=agent.id, revision=1, **content, create_time=now)])
    await session.commit()
    return agent
