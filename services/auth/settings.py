"""Settings of the auth service and of its jobs."""

from datetime import timedelta
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr
from pydantic_core import PydanticCustomError

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
    auth_deleted_user_days: int = Field(
        30, ge=1, le=3_650, description="Days from a user's deletion to its removal for good, with all that it owns."
    )
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

    @property
    def deleted_user_kept(self) -> timedelta:
        """How long a deleted user can be undeleted."""
        return timedelta(days=self.auth_deleted_user_days)


def _link(template: str) -> str:
    """A URL that holds `{code}`, and perhaps `{email}`, behind its host; or nothing."""
    try:
        parts = urlsplit(template)
        is_url = parts.scheme in ("https", "http") and bool(parts.hostname) and "{" not in parts.netloc
    except ValueError:
        is_url = False
    other_braces = set("{}") & set(template.replace("{code}", "").replace("{email}", ""))
    if template and (not is_url or "{code}" not in template or other_braces):
        raise PydanticCustomError("link", "must be a URL such as https://example.com/reset?email={email}&code={code}")
    return template


LinkTemplate = Annotated[str, AfterValidator(_link)]


class AuthJobSettings(MailSettings):
    """What the jobs of auth need."""

    auth_password_reset_url: LinkTemplate = Field(
        "",
        description="Page where a mailed code resets a password: a URL with `{code}` and `{email}`; empty: no link.",
    )
    auth_email_verification_url: LinkTemplate = Field(
        "", description="Page where a mailed code verifies an address: a URL in the same way."
    )
    auth_audit_days: int = Field(365, ge=1, le=36_500, description="Days that audit events are kept.")

    @property
    def audit_kept(self) -> timedelta:
        """How long audit events are kept."""
        return timedelta(days=self.auth_audit_days)
