"""Settings of the auth service and of its jobs."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo
from pydantic_core import PydanticCustomError

from services.kit.mail import MailSettings
from services.kit.settings import MIN_SERVICE_SECRET, ServiceSettings

BUILT_IN_SERVICES = ("agent", "file", "chat")
"""Services that have an account from the start, as they cannot do without."""
LONGEST_TOKEN_LIFE = timedelta(hours=1)
"""How long any access token lives at the most, whatever is set.

What must outlast all tokens is reckoned from this: a process cannot know what others have given out, with another
setting or before it was changed.
"""


def _service_secrets(text: SecretStr) -> SecretStr:
    entries = [entry.partition("=") for entry in text.get_secret_value().split(",")]
    names, secrets = [name.strip() for name, _, _ in entries], [secret for _, _, secret in entries]
    # The values are not repeated in what is said.
    if any(len(secret) < MIN_SERVICE_SECRET for secret in secrets) or len(set(secrets)) < len(secrets):
        raise PydanticCustomError(
            "service_secrets",
            "must be like `agent=…,file=…,chat=…`, each with a secret of its own of at least 32 random characters",
        )
    # Nor are the names: one may be a part of a secret that holds a comma.
    if not set(names) <= set(BUILT_IN_SERVICES) or len(set(names)) < len(names):
        raise PydanticCustomError("service_names", f"must name each of {', '.join(BUILT_IN_SERVICES)} at most once")
    return text


ServiceSecrets = Annotated[SecretStr, AfterValidator(_service_secrets)]


def _no_less_than_idle(days: int, info: ValidationInfo) -> int:
    # A wrong value of the other is told already, and is not here.
    if days < info.data.get("auth_session_days", 0):
        raise PydanticCustomError("session_days", "must not be less than PARLEY_AUTH_SESSION_DAYS")
    return days


class AuthSettings(ServiceSettings):
    """What only the auth service needs."""

    auth_secret_key: SecretStr | None = Field(
        None,
        description="32 random bytes in base64 that encrypt the signing keys; by default in a file of the data folder.",
    )
    auth_access_token_seconds: float = Field(
        900,
        gt=0,
        le=LONGEST_TOKEN_LIFE.total_seconds(),
        description="Seconds that an access token is valid; at most 3600.",
    )
    auth_jwks_seconds: float = Field(
        60, ge=1, le=3_600, description="Seconds that services may keep the public keys before they ask for them again."
    )
    auth_service_secrets: ServiceSecrets | None = Field(
        None,
        description="Secrets of the services' own accounts, as in `agent=…,file=…,chat=…`; each service has its own in"
        " PARLEY_SERVICE_SECRET. By default in files of the data folder.",
    )
    auth_session_days: int = Field(30, ge=1, le=400, description="Days that a session lives without a refresh.")
    auth_session_max_days: Annotated[int, AfterValidator(_no_less_than_idle)] = Field(
        365, ge=1, le=3_650, description="Days that a session lives at most, however often it is refreshed."
    )
    auth_deleted_user_days: int = Field(
        30, ge=1, le=3_650, description="Days from a user's deletion to its removal for good, with all that it owns."
    )
    auth_password_min_length: int = Field(15, ge=8, le=64, description="Characters that a new password has at least.")
    auth_hash_slots: int = Field(2, ge=1, le=64, description="Passwords hashed at a time; each takes 19 MiB.")
    auth_hash_queue: int = Field(64, ge=1, le=10_000, description="Passwords that may wait to be hashed.")

    @property
    def access_token_life(self) -> timedelta:
        """How long an access token is valid."""
        return timedelta(seconds=self.auth_access_token_seconds)

    @property
    def jwks_max_age(self) -> timedelta:
        """How long verifiers may keep the public keys."""
        return timedelta(seconds=self.auth_jwks_seconds)

    @property
    def service_secrets(self) -> Mapping[str, str]:
        """The secrets of services' own accounts, by name."""
        if self.auth_service_secrets is None:
            return {}
        entries = self.auth_service_secrets.get_secret_value().split(",")
        return {name.strip(): secret for name, _, secret in (entry.partition("=") for entry in entries)}

    @property
    def session_idle(self) -> timedelta:
        """How long a session lives without a refresh."""
        return timedelta(days=self.auth_session_days)

    @property
    def session_longest(self) -> timedelta:
        """How long a session lives with any number of them."""
        return timedelta(days=self.auth_session_max_days)

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
