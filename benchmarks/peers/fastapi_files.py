"""Files with FastAPI, put together the way it usually is, and with what its users turn to when that is too slow.

The usual one is `POST /files` with `UploadFile`, read whole and written with aiofiles, and `GET /files/{id}` with
`FileResponse`, as FastAPI's manual shows both. The better ones are `PUT /files`, which writes `request.stream()` as it
comes, and `GET /files/{id}?large_chunks=true`.

As the file service does, it tells a file's SHA-256 and has the file on the disk before it answers. With PEER_RECORDS it
also checks the access token and keeps whose file it is in PostgreSQL; without, it asks nobody and remembers nothing.
"""

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from uuid import UUID

import aiofiles
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from fastapi import Depends, FastAPI, HTTPException, Request, UploadFile, status
from fastapi.responses import FileResponse
from fastapi.security import OAuth2PasswordBearer
from pydantic import BaseModel, ConfigDict
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import TIMESTAMP, BigInteger, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.kit.ids import uuid7

NOBODY = UUID(int=0)


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="PEER_")

    database_url: str
    pool_size: int
    public_key: str
    issuer: str
    audience: str
    folder: Path
    records: bool


settings = Settings()
engine = create_async_engine(settings.database_url, pool_size=settings.pool_size, max_overflow=0)
new_session = async_sessionmaker(engine, expire_on_commit=False)
public_key = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(settings.public_key + "=="))
bearer = OAuth2PasswordBearer(tokenUrl="token")


class Base(DeclarativeBase):
    type_annotation_map = {datetime: TIMESTAMP(timezone=True), int: BigInteger}  # noqa: RUF012  # as SQLAlchemy's manual has it


class StoredFile(Base):
    __tablename__ = "peer_files"
    __table_args__ = {"schema": "public"}  # noqa: RUF012  # as SQLAlchemy's manual has it

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(index=True)
    filename: Mapped[str]
    content_type: Mapped[str]
    size_bytes: Mapped[int]
    sha256: Mapped[str]
    create_time: Mapped[datetime]


class FileOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    user_id: UUID
    filename: str
    content_type: str
    size_bytes: int
    sha256: str
    create_time: datetime


class LargeChunks(FileResponse):
    chunk_size = 1024 * 1024


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


async def get_session() -> AsyncIterator[AsyncSession]:
    async with new_session() as session:
        yield session


async def get_current_user_id(token: Annotated[str, Depends(bearer)]) -> UUID:
    if not settings.records:
        return NOBODY
    try:
        claims = jwt.decode(token, public_key, algorithms=["EdDSA"], audience=settings.audience, issuer=settings.issuer)
        return UUID(claims["sub"])
    except (jwt.InvalidTokenError, KeyError, ValueError) as error:
        raise HTTPException(status.HTTP_401_UNAUTHORIZED, "Invalid token") from error


UserId = Annotated[UUID, Depends(get_current_user_id)]
Session = Annotated[AsyncSession, Depends(get_session)]


@app.post("/files", response_model=FileOut, status_code=status.HTTP_201_CREATED)
async def upload_file(file: UploadFile, user_id: UserId, session: Session) -> StoredFile:
    content = await file.read()
    stored = new_file(user_id, file.filename or "", file.content_type or "")
    async with aiofiles.open(settings.folder / str(stored.id), "wb") as out:
        await out.write(content)
        await out.flush()
        await asyncio.to_thread(os.fsync, out.fileno())
    stored.size_bytes, stored.sha256 = len(content), hashlib.sha256(content).hexdigest()
    return await keep(stored, session)


@app.put("/files", response_model=FileOut, status_code=status.HTTP_201_CREATED)
async def upload_stream(request: Request, filename: str, user_id: UserId, session: Session) -> StoredFile:
    stored = new_file(user_id, filename, request.headers.get("content-type", ""))
    size, digest = 0, hashlib.sha256()
    # Written at once: a thread for each of these small chunks costs more than the page cache takes.
    with (settings.folder / str(stored.id)).open("wb", buffering=0) as out:
        async for chunk in request.stream():
            out.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        await asyncio.to_thread(os.fsync, out.fileno())
    stored.size_bytes, stored.sha256 = size, digest.hexdigest()
    return await keep(stored, session)


@app.get("/files/{file_id}")
async def download_file(
    file_id: UUID,
    user_id: UserId,
    session: Session,
    large_chunks: bool = False,
) -> FileResponse:
    kind = LargeChunks if large_chunks else FileResponse
    if not settings.records:
        return kind(settings.folder / str(file_id))
    file = await session.scalar(select(StoredFile).where(StoredFile.id == file_id, StoredFile.user_id == user_id))
    if file is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "No such file")
    return kind(settings.folder / str(file_id), media_type=file.content_type, filename=file.filename)


def new_file(user_id: UUID, filename: str, content_type: str) -> StoredFile:
    return StoredFile(
        id=uuid7(), user_id=user_id, filename=filename, content_type=content_type, create_time=datetime.now(UTC)
    )


async def keep(stored: StoredFile, session: AsyncSession) -> StoredFile:
    if settings.records:
        session.add(stored)
        await session.commit()
    return stored
