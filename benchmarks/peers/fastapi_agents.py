"""GET /agents/{id} with FastAPI, pydantic, SQLAlchemy's async ORM and PyJWT, put together the way it usually is.

It reads the same table as the agent service, checks the same access tokens, and gives the same fields.
"""

import base64
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from fastapi import Depends, FastAPI, HTTPException, status
from fastapi.security import OAuth2PasswordBearer
from pydantic import BaseModel, ConfigDict
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import TIMESTAMP, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="PEER_")

    database_url: str
    pool_size: int
    public_key: str
    issuer: str
    audience: str


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


async def get_session() -> AsyncIterator[AsyncSession]:
    async with new_session() as session:
        yield session


async def get_current_user_id(token: Annotated[str, Depends(bearer)]) -> UUID:
    try:
        claims = jwt.decode(token, public_key, algorithms=["EdDSA"], audience=settings.audience, issuer=settings.issuer)
        return UUID(claims["sub"])
    except (jwt.InvalidTokenError, KeyError, ValueError) as error:
        raise HTTPException(status.HTTP_401_UNAUTHORIZED, "Invalid token") from error


@app.get("/agents/{agent_id}", response_model=AgentOut)
async def get_agent(
    agent_id: UUID,
    user_id: Annotated[UUID, Depends(get_current_user_id)],
    session: Annotated[AsyncSession, Depends(get_session)],
) -> Agent:
    agent = await session.scalar(
        select(Agent).where(Agent.id == agent_id, Agent.user_id == user_id, Agent.delete_time.is_(None))
    )
    if agent is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "No such agent")
    return agent
