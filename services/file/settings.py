"""The settings of the file service and of its jobs."""

from datetime import timedelta
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator

from services.kit.settings import DatabaseSettings, Port, Seconds, ServiceSettings

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40
STORE_SCHEMES = ("file", "s3", "gs", "az", "memory")

Years = Annotated[float, Field(gt=0, le=10 * 365 * 86_400)]


class FileStoreSettings(DatabaseSettings):
    """What the file service and its jobs must agree on."""

    file_store_url: str = Field(
        "",
        description="Where bytes are kept: file:///folder, s3://bucket/prefix, gs://… or az://…, with credentials from "
        "the environment as those stores' clients name them; by default the folder `files` in PARLEY_DATA_DIR.",
    )
    file_store_threads: int = Field(8, ge=1, le=256, description="Reads and writes of the store at a time, a process.")
    file_store_timeout: Seconds = Field(
        20.0,
        description="Seconds that a request to an object store may take, with one part at the most; one that fails is "
        "repeated within half as long.",
    )
    file_idle_timeout: Seconds = Field(30.0, description="Seconds that an upload stream may send nothing.")
    file_unfinished_after: Seconds = Field(
        3600.0, description="Seconds without progress after which an upload that cannot be resumed is given up."
    )

    @field_validator("file_store_url")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        if value and urlsplit(value).scheme not in STORE_SCHEMES:
            raise ValueError(f"must begin with one of {', '.join(f'{scheme}://' for scheme in STORE_SCHEMES)}")
        return value

    @field_validator("file_unfinished_after")
    @classmethod
    def _longer_than_silence(cls, value: float, info: ValidationInfo) -> float:
        # An upload shows that it lives when a message comes: it must not count as dead between two of them.
        if value < 2 * info.data.get("file_idle_timeout", 0):
            raise ValueError("must be at least twice PARLEY_FILE_IDLE_TIMEOUT")
        return value

    @property
    def store_url(self) -> str:
        """The URL of the store."""
        return self.file_store_url or (self.data_dir.resolve() / "files").as_uri()

    @property
    def unfinished_after(self) -> timedelta:
        """How long an upload may make no progress."""
        return timedelta(seconds=self.file_unfinished_after)


class FileSettings(FileStoreSettings, ServiceSettings):
    """What only the file service needs."""

    file_port: Port = Field(50053, description="Port of the file service.")
    file_max_bytes: int = Field(10 * MIB, ge=1, le=64 * TIB, description="The largest file, in bytes.")
    file_part_bytes: int = Field(
        8 * MIB, ge=64 * KIB, le=256 * MIB, description="Bytes of a stored part. An upload has up to three in memory."
    )
    file_download_chunk_bytes: int = Field(
        MIB, ge=KIB, le=2 * MIB, description="Bytes of a chunk that a download sends."
    )
    file_max_open_uploads: int = Field(8, ge=1, le=1000, description="Files open at a time on one UploadFiles stream.")
    file_max_uploads: int = Field(1024, ge=1, le=100_000, description="Files being uploaded at a time, a process.")
    file_max_uploads_per_user: int = Field(256, ge=1, le=100_000, description="Of those, how many one user may have.")
    file_upload_memory_bytes: int = Field(
        64 * MIB, ge=MIB, le=TIB, description="Bytes that all uploads of a process may have in memory together."
    )
    file_upload_expiry: Years = Field(
        7 * 86_400.0, description="Seconds without progress after which an upload that can be resumed is given up."
    )
    file_quota_bytes: int = Field(
        10 * GIB, ge=1, le=2**60, description="Bytes that a user's files and unfinished uploads may have in all."
    )
    file_quota_files: int = Field(
        100_000, ge=1, le=2**40, description="Files and unfinished uploads that a user may have."
    )
    file_deleted_after: Years = Field(
        30 * 86_400.0, description="Seconds that a deleted file can be undeleted; then it is removed for good."
    )
    file_max_downloads: int = Field(128, ge=1, le=100_000, description="Downloads at a time, a process.")
    file_max_downloads_per_user: int = Field(64, ge=1, le=100_000, description="Of those, how many one user may have.")
    agent_port: Port = Field(50052, description="Port of the agent service.")
    agent_target: str = Field("", description="Where file reaches agent; by default `127.0.0.1:PARLEY_AGENT_PORT`.")
    chat_port: Port = Field(50054, description="Port of the chat service.")
    chat_target: str = Field("", description="Where file reaches chat; by default `127.0.0.1:PARLEY_CHAT_PORT`.")

    @property
    def deleted_after(self) -> timedelta:
        """How long a deleted file can be undeleted."""
        return timedelta(seconds=self.file_deleted_after)

    @property
    def agent_address(self) -> str:
        """The gRPC target of the agent service."""
        return self.agent_target or f"127.0.0.1:{self.agent_port}"

    @property
    def chat_address(self) -> str:
        """The gRPC target of the chat service."""
        return self.chat_target or f"127.0.0.1:{self.chat_port}"


class FileJobSettings(FileStoreSettings):
    """What only the jobs of files need."""
