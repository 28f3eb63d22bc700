"""What tests say often: a status that a call must end with, a token, an address."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast
from uuid import UUID, uuid4

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details_pb2
from google.rpc import status_pb2

from services.kit.access import ADMIN_SCOPE, SERVICE_SCOPE, TokenVerifier
from services.kit.identity import Identity, Refusal
from services.kit.ids import uuid7
from services.kit.revocations import RevokedSessions

ISSUER = AUDIENCE = "parley"
DEADLINE = 10.0
KID = "the-tests-key"
M = TypeVar("M", bound=Message)
Metadata = tuple[tuple[str, str], ...]


class TestKeys:
    """A key pair that services under test accept, as they would accept one of auth's."""

    __test__ = False

    def __init__(self) -> None:
        self.private = Ed25519PrivateKey.generate()

    async def find(self, kid: str) -> Ed25519PublicKey | None:
        """The public half, for its `kid`."""
        return self.private.public_key() if kid == KID else None

    def claims(self, user_id: UUID, **changed: Any) -> dict[str, Any]:
        """The claims of a good token of a user; None takes one out."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": str(user_id),
            "sid": str(uuid7()),
            "client_id": "tests",
            "jti": str(uuid4()),
            "iat": now,
            "exp": now + 900,
            "scope": "",
        }
        return {name: value for name, value in (claims | changed).items() if value is not None}

    def token(self, user_id: UUID, **changed: Any) -> str:
        """A signed access token."""
        return jwt.encode(self.claims(user_id, **changed), self.private, "EdDSA", headers={"typ": "at+jwt", "kid": KID})

    def admin_token(self, user_id: UUID, **changed: Any) -> str:
        """The token of a user who is an administrator."""
        return self.token(user_id, **({"scope": ADMIN_SCOPE} | changed))

    def service_token(self, *methods: str, account_id: UUID | None = None, **changed: Any) -> str:
        """The token of a service that may call these methods."""
        account_id = account_id or uuid7()
        claims = {"sid": str(account_id), "scope": SERVICE_SCOPE, "methods": list(methods)}
        return self.token(account_id, **(claims | changed))


def identity_of(
    keys: Any, *, revoked: RevokedSessions | None = None, refusals: list[Refusal] | None = None
) -> Identity:
    """An identity that accepts the tokens of these keys, and collects what it refuses."""
    revoked = RevokedSessions() if revoked is None else revoked
    refusals = [] if refusals is None else refusals
    verifier = TokenVerifier(keys, issuer=ISSUER, audience=AUDIENCE, revoked=revoked)
    return Identity(verifier, revoked, is_ready=lambda: True, on_refusal=refusals.append)


def bearer(token: str) -> Metadata:
    """The metadata that carries an access token."""
    return (("authorization", f"Bearer {token}"),)


def status_of(error: grpc.RpcError) -> status_pb2.Status:
    """The `google.rpc.Status` of a failed call."""
    trailers = dict(cast("Any", error).trailing_metadata() or ())
    assert "grpc-status-details-bin" in trailers, f"no status details on {error!r}"
    return status_pb2.Status.FromString(trailers["grpc-status-details-bin"])


def detail(status: Any, kind: type[M]) -> M | None:
    """The detail of a type, such as RetryInfo, in a status; None if there is none."""
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            return message
    return None


def reason_of(status: Any) -> str:
    """The reason in a status's ErrorInfo."""
    info = detail(status, details_pb2.ErrorInfo)
    assert info is not None
    assert info.domain == "parley"
    return str(info.reason)


@contextmanager
def raises_status(code: grpc.StatusCode, reason: str, *, fields: Sequence[str] | None = None) -> Iterator[None]:
    """The block must fail with this code and reason, and, if given, with violations of exactly these fields."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    error: Any = caught.value
    assert error.code() == code, f"{error.code().name}, not {code.name}: {error!r}"
    status = status_of(error)
    assert status.code == code.value[0]
    assert reason_of(status) == reason
    if fields is not None:
        bad = detail(status, details_pb2.BadRequest)
        assert bad is not None, "no field violations"
        assert sorted({violation.field for violation in bad.field_violations}) == sorted(fields)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, with a deadline. For what tells nobody when it changes."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.02)
