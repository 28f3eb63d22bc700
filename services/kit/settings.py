"""Settings: read once from the environment, frozen, and passed to whoever needs them.

Every setting is an environment variable that starts with `PARLEY_`: the field `auth_port` is `PARLEY_AUTH_PORT`.
"""

import sys
from collections.abc import Iterable, Mapping
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]

EXIT_BAD_SETTINGS = 2
PREFIX = "PARLEY_"
MIN_SERVICE_SECRET = 32


def _postgresql(url: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(url.get_secret_value())
        known = parts.scheme in ("postgresql", "postgres") and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known:
        # The value is not repeated: it may hold a password.
        raise PydanticCustomError("database_url", "must be a URL such as postgresql://user:password@host:5432/name")
    return url


DatabaseUrl = Annotated[SecretStr, AfterValidator(_postgresql)]

S = TypeVar("S", bound=BaseSettings)


class LogSettings(BaseSettings):
    """How a process writes its log."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    log_format: Literal["console", "json"] = Field("console", description="`console` for people, `json` for machines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least level written.")


class DatabaseSettings(LogSettings):
    """Where the database is. What every process that uses it shares."""

    database_url: DatabaseUrl = Field(description="PostgreSQL 15 or later: `postgresql://user:password@host/name`.")
    database_pool_size: int = Field(10, ge=1, le=500, description="Connections a process keeps for its calls.")
    database_statement_timeout: Seconds = Field(30.0, description="Seconds after which PostgreSQL ends a statement.")
    database_roles: bool = Field(
        True, description="Whether each service takes a PostgreSQL role of its own, made by `parley migrate`."
    )
    data_dir: Path = Field(Path(".parley"), description="Folder for what is kept on this machine.")


def _service_secret(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value()) < MIN_SERVICE_SECRET:
        raise PydanticCustomError("service_secret", f"must be at least {MIN_SERVICE_SECRET} random characters")
    return secret


ServiceSecret = Annotated[SecretStr, AfterValidator(_service_secret)]


class ServiceSettings(DatabaseSettings):
    """What every service shares."""

    listen_host: str = Field("127.0.0.1", description="Address that the services listen on.")
    drain_seconds: Seconds = Field(3.0, description="Seconds that calls in flight get to end when a service stops.")
    unary_timeout: Seconds = Field(30.0, description="Cap in seconds for unary calls, whatever deadline they bring.")
    reuse_port: bool = Field(False, description="Share the port with other processes of the same service.")
    auth_port: Port = Field(50051, description="Port of the auth service.")
    auth_target: str = Field("", description="Where others reach auth; by default `127.0.0.1:PARLEY_AUTH_PORT`.")
    token_issuer: str = Field("parley", min_length=1, description="Claim `iss` of access tokens.")
    token_audience: str = Field("parley", min_length=1, description="Claim `aud` of access tokens.")
    service_secret: ServiceSecret | None = Field(
        None,
        description="Secret of this service's account at auth, of at least 32 random characters;"
        " by default in a file of the data folder.",
    )
    trusted_proxies: int = Field(
        0, ge=0, le=10, description="Proxies in front of the services whose `x-forwarded-for` is believed."
    )
    max_connection_age: Seconds = Field(3600.0, description="Seconds after which a connection is asked to reconnect.")
    max_concurrent_streams: int = Field(100, ge=1, le=100_000, description="Calls at a time on one connection.")
    max_unary_calls: int = Field(2048, ge=1, le=1_000_000, description="Unary calls at a time in one process.")
    max_streams: int = Field(8192, ge=1, le=1_000_000, description="Streams at a time in one process.")

    @property
    def auth_address(self) -> str:
        """The gRPC target of the auth service."""
        return self.auth_target or f"127.0.0.1:{self.auth_port}"

    @property
    def drain(self) -> timedelta:
        """What calls in flight get to end."""
        return timedelta(seconds=self.drain_seconds)


class FileTargetSettings(ServiceSettings):
    """For services that call the file service."""

    file_port: Port = Field(50053, description="Port of the file service.")
    file_target: str = Field("", description="Where others reach file; by default `127.0.0.1:PARLEY_FILE_PORT`.")

    @property
    def file_address(self) -> str:
        """The gRPC target of the file service."""
        return self.file_target or f"127.0.0.1:{self.file_port}"


class SettingUnusable(Exception):
    """A setting is well formed but leads nowhere: a folder that cannot be made, a key that opens nothing.

    The text names the setting. A process that meets it at its start says it as its last line and ends with exit code 2.
    """


def load(kind: type[S]) -> S:
    """Read settings from the environment. A wrong or missing value is one clear line each on stderr and exit 2."""
    try:
        return kind()
    except ValidationError as error:
        problems = [_described(problem["loc"], problem["type"], problem["msg"]) for problem in error.errors()]
    except SettingsError as error:
        problems = [str(error)]
    for problem in problems:
        sys.stderr.write(f"parley: {problem}\n")
    raise SystemExit(EXIT_BAD_SETTINGS)


def _described(path: tuple[int | str, ...], kind: str, message: str) -> str:
    name = PREFIX + "_".join(str(part) for part in path).upper()
    return f"{name}: {'is not set' if kind == 'missing' else message.removeprefix('Value error, ')}"


def warn_unknown_variables(kinds: Iterable[type[BaseSettings]], environment: Mapping[str, str]) -> None:
    """Say on stderr which `PARLEY_…` variables none of these settings knows, with the nearest name: mostly a slip.

    For whoever knows all settings there are, such as the command line: a service knows its own only.
    """
    known = {PREFIX + name.upper() for kind in kinds for name in kind.model_fields}
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            nearest = get_close_matches(name.upper(), known, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            sys.stderr.write(f"parley: {name} is not a setting and has no effect{hint}\n")
