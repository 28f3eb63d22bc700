"""Settings: read once from the environment, frozen, and passed to whoever needs them.

Every setting is an environment variable that starts with `PARLEY_`: the field `auth_port` is `PARLEY_AUTH_PORT`.
"""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, NoReturn, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]

EXIT_BAD_SETTINGS = 2

S = TypeVar("S", bound=BaseSettings)


class LogSettings(BaseSettings):
    """How a process writes its log."""

    model_config = SettingsConfigDict(env_prefix="PARLEY_", frozen=True, extra="ignore")

    log_format: Literal["console", "json"] = Field("console", description="`console` for people, `json` for machines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least level written.")


class DatabaseSettings(LogSettings):
    """Where the database is. What every process that uses it shares."""

    database_url: SecretStr = Field(description="PostgreSQL 15 or later: `postgresql://user:password@host/name`.")
    database_pool_size: int = Field(10, ge=1, le=500, description="Connections a process keeps for its calls.")
    database_statement_timeout: Seconds = Field(30.0, description="Seconds after which PostgreSQL ends a statement.")
    data_dir: Path = Field(Path(".parley"), description="Folder for what is kept on this machine.")


class ServiceSettings(DatabaseSettings):
    """What every service shares."""

    listen_host: str = Field("127.0.0.1", description="Address that the services listen on.")
    drain_seconds: Seconds = Field(3.0, description="Seconds that calls in flight get to end when a service stops.")
    unary_timeout: Seconds = Field(30.0, description="Cap in seconds for unary calls, whatever deadline they bring.")
    auth_port: Port = Field(50051, description="Port of the auth service.")
    auth_target: str = Field("", description="Where others reach auth; by default `127.0.0.1:PARLEY_AUTH_PORT`.")
    token_issuer: str = Field("parley", description="Claim `iss` of access tokens.")
    token_audience: str = Field("parley", description="Claim `aud` of access tokens.")
    max_connection_age: Seconds = Field(3600.0, description="Seconds after which a connection is asked to reconnect.")
    max_concurrent_streams: int = Field(100, ge=1, le=100_000, description="Calls at a time on one connection.")

    @property
    def auth_address(self) -> str:
        """The gRPC target of the auth service."""
        return self.auth_target or f"127.0.0.1:{self.auth_port}"

    @property
    def drain(self) -> timedelta:
        """What calls in flight get to end."""
        return timedelta(seconds=self.drain_seconds)


def load(kind: type[S]) -> S:
    """Read settings from the environment. A wrong or missing value is one clear line each on stderr and exit 2."""
    try:
        return kind()
    except ValidationError as error:
        _refuse(error)


def _refuse(error: ValidationError) -> NoReturn:
    for problem in error.errors():
        name = "PARLEY_" + "_".join(str(part) for part in problem["loc"]).upper().removeprefix("PARLEY_")
        what = "is not set" if problem["type"] == "missing" else problem["msg"]
        sys.stderr.write(f"parley: {name}: {what}\n")
    raise SystemExit(EXIT_BAD_SETTINGS)
