"""What a service knows of who calls it: whose tokens it accepts, which sessions have ended, and where refusals go."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from parley.auth.v1 import auth_service_pb2_grpc as auth_grpc
from services.kit import base64url
from services.kit.access import TokenVerifier
from services.kit.jwks import open_remote_keys
from services.kit.outgoing import CHANNEL_OPTIONS, open_channel
from services.kit.refusal_tally import Refusal
from services.kit.refusals import telling_refusals
from services.kit.revocations import FIRST_SECONDS, RevokedSessions, following_revocations
from services.kit.secret_files import read_or_make_secret
from services.kit.service_tokens import ServiceTokens, open_service_tokens
from services.kit.settings import ServiceSettings

__all__ = ["Identity", "Refusal", "ServiceIdentity", "kept_service_secret", "open_identity", "service_secret"]


@dataclass(frozen=True)
class Identity:
    """What a server needs to know who calls."""

    verifier: TokenVerifier
    revoked: RevokedSessions
    """The same that the verifier has: open streams end when their session is added."""
    is_ready: Callable[[], bool]
    """Whether tokens can be verified."""
    on_refusal: Callable[[Refusal], None]
    """Told of every call that is refused to a caller who is known. It neither waits nor raises."""


@dataclass(frozen=True)
class ServiceIdentity(Identity):
    """The identity of a service that has an account at auth."""

    tokens: ServiceTokens
    """Of that account: what the service does by itself, at others, it does with these."""


def service_secret(settings: ServiceSettings, name: str) -> str:
    """The secret of a service's own account: the setting's, or else the one kept in the data folder."""
    if settings.service_secret is not None:
        return settings.service_secret.get_secret_value()
    return kept_service_secret(settings.data_dir, name)


def kept_service_secret(data_dir: Path, name: str) -> str:
    """The secret of a service's own account that is kept in the data folder, made if it is not there."""
    return base64url.encode(read_or_make_secret(data_dir / "services" / f"{name}.secret"))


@asynccontextmanager
async def open_identity(settings: ServiceSettings, name: str) -> AsyncIterator[ServiceIdentity]:
    """The identity of a service that asks auth: for keys, for revoked sessions, and to take down what it refuses.

    It is ready once it has keys and knows which sessions were revoked; until then tokens meet DependencyUnavailable.
    In its first seconds a token whose key it has waits for the latter instead.
    While auth is away afterwards, tokens whose key is known stay good up to their expiry.
    """
    revoked = RevokedSessions(is_complete=False, patience=FIRST_SECONDS)
    # Both channels share one connection: gRPC keeps one for each target.
    async with grpc.aio.insecure_channel(settings.auth_address, options=CHANNEL_OPTIONS) as anonymous:
        public = auth_grpc.AuthServiceStub(anonymous)
        async with (
            open_remote_keys(public) as keys,
            open_service_tokens(public, name, service_secret(settings, name)) as tokens,
            open_channel(settings.auth_address, identity=tokens) as channel,
        ):
            auth = auth_grpc.AuthServiceStub(channel)
            verifier = TokenVerifier(
                keys, issuer=settings.token_issuer, audience=settings.token_audience, revoked=revoked
            )
            keys.on_gone = verifier.forget_all
            async with telling_refusals(auth) as reporter, following_revocations(auth, revoked):
                yield ServiceIdentity(
                    verifier,
                    revoked,
                    is_ready=lambda: revoked.is_complete and keys.is_ready,
                    on_refusal=reporter.take,
                    tokens=tokens,
                )
