"""Settings of the auth service and of its jobs."""

from datetime import timedelta

from pydantic import Field, SecretStr

from services.kit.mail import MailSettings
from services.kit.settings import Seconds, ServiceSettings


class AuthSettings(ServiceSettings):
    """What only the auth service needs."""

    auth_secret_key: SecretStr | None = Field(
        None,
        description="32 random bytes in base64 that encrypt the signing keys; by default in a file of the data folder.",
    )
    auth_access_token_seconds: Seconds = Field(900, description="Seconds that an access token is valid.")
    auth_session_days: int = Field(30, ge=1, le=400, description="Days that a session lives without a refresh.")
    auth_hash_slots: int = Field(2, ge=1, le=64, description="Passwords hashed at a time; each takes 19 MiB.")
    auth_hash_queue: int = Field(64, ge=1, le=10_000, description="Passwords that may wait to be hashed.")

    @property
    def access_token_life(self) -> timedelta:
        """How long an access token is valid."""
        return timedelta(seconds=self.auth_access_token_seconds)

    @property
    def session_life(self) -> timedelta:
        """How long a session lives without a refresh."""
        return timedelta(days=self.auth_session_days)


class AuthJobSettings(MailSettings):
    """What the jobs of auth need."""
