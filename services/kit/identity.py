"""What a service knows of who calls it: whose tokens it accepts, which sessions have ended, and where refusals go."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.kit import base64url
from services.kit.access import TokenVerifier
from services.kit.jwks import open_remote_keys
from services.kit.origin import Origin
from services.kit.revocations import RevokedSessions
from services.kit.secret_files import read_or_make_secret
from services.kit.settings import ServiceSettings


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that its caller may not make."""

    id: UUID
    create_time: datetime
    method: str
    """Its full name, such as `parley.agent.v1.AgentService/GetAgent`."""
    subject_id: UUID
    session_id: UUID
    origin: Origin


@dataclass(frozen=True)
class Identity:
    """What a server needs to know who calls."""

    verifier: TokenVerifier
    revoked: RevokedSessions
    """The same that the verifier has: its open streams end when a session is added."""
    is_ready: Callable[[], bool]
    """Whether tokens can be verified."""
    on_refusal: Callable[[Refusal], None]
    """Told of every call that is refused to a caller who is known. It neither waits nor raises."""


def service_secret(settings: ServiceSettings, name: str) -> str:
    """The secret of a service's own account: the setting's, or else the one kept in the data folder."""
    if settings.service_secret is not None:
        return settings.service_secret.get_secret_value()
    return base64url.encode(read_or_make_secret(settings.data_dir / "services" / f"{name}.secret"))


@asynccontextmanager
async def open_identity(settings: ServiceSettings, name: str) -> AsyncIterator[Identity]:  # noqa: ARG001  # soon
    """The identity of a service that asks auth."""
    revoked = RevokedSessions()
    async with open_remote_keys(settings.auth_address) as keys:
        yield Identity(
            TokenVerifier(keys, issuer=settings.token_issuer, audience=settings.token_audience, revoked=revoked),
            revoked,
            is_ready=lambda: True,
            on_refusal=lambda _: None,
        )
