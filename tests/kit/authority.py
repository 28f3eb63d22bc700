"""A stand-in for auth as the other services use it: keys, service tokens, revoked sessions, refusals."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from parley.auth.v1 import auth_service_pb2 as auth_pb2
from services.kit import base64url
from services.kit.calls import Registration
from services.kit.errors import DomainError, OutOfRange, Unauthenticated
from services.kit.server import Service, running
from services.kit.settings import ServiceSettings
from tests.kit.conftest import service_settings
from tests.support import KID, TestKeys, identity_of

AUTH_SERVICE = auth_pb2.DESCRIPTOR.services_by_name["AuthService"]
METHODS = (
    "parley.auth.v1.AuthService/*",
    "parley.file.v1.FileService/*",
    "parley.chat.v1.ChatService/CheckFileReader",
    "parley.agent.v1.ExecutionService/CheckFileReader",
)


class CredentialsInvalid(Unauthenticated):
    """The secret is wrong."""

    reason = "CREDENTIALS_INVALID"


class CursorInvalid(OutOfRange):
    """The cursor lies beyond the end."""

    reason = "CURSOR_INVALID"


class Authority:
    """Auth, as far as services call it, with what a test wants to know and to change."""

    def __init__(self, keys: TestKeys) -> None:
        self.keys = keys
        self.revocations: list[auth_pb2.Revocation] = []
        self.recorded: list[list[auth_pb2.RecordRefusalsRequest.Refusal]] = []
        self.cursors: list[int] = []
        """The cursor of each WatchRevocations."""
        self.issued: list[str] = []
        """The service tokens."""
        self.token_seconds = 300.0
        self.failure: DomainError | None = None
        """What service tokens and refusals are answered with."""
        self.first_kept = 1
        self.is_silent = False
        self.account_id = uuid4()
        self._news = asyncio.Condition()

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[str]:
        """Serve, and yield the address."""
        async with (
            self.opened() as service,
            running(service, service_settings(drain_seconds=0.1), port=port) as address,
        ):
            yield address

    @asynccontextmanager
    async def opened(self, _settings: ServiceSettings | None = None) -> AsyncIterator[Service]:
        """The service, as a wiring gives it."""
        methods: dict[str, Any] = dict.fromkeys(AUTH_SERVICE.methods_by_name, self._get_jwks)
        methods |= {
            "IssueServiceToken": self._issue,
            "WatchRevocations": self._watch,
            "RecordRefusals": self._record,
        }
        followers = frozenset({"WatchRevocations"})
        registration = Registration(AUTH_SERVICE, SimpleNamespace(**methods), followers=followers)
        yield Service("auth", [registration], identity_of(self.keys), lambda: True)

    async def revoke(self, *session_ids: UUID, seconds: float = 900) -> None:
        """Tell all who follow that these sessions have ended."""
        expire_time = Timestamp()
        expire_time.FromNanoseconds(int((time.time() + seconds) * 1e9))
        sequence = len(self.revocations) + 1
        ids = [str(session_id) for session_id in session_ids]
        self.revocations.append(auth_pb2.Revocation(sequence=sequence, session_ids=ids, expire_time=expire_time))
        async with self._news:
            self._news.notify_all()

    async def _get_jwks(self, _request: Any, _call: Any) -> auth_pb2.GetJwksResponse:
        x = base64url.encode(self.keys.private.public_key().public_bytes_raw())
        key = auth_pb2.Jwk(kty="OKP", crv="Ed25519", kid=KID, x=x, alg="EdDSA", use="sig")
        return auth_pb2.GetJwksResponse(keys=[key], max_age=Duration(seconds=300))

    async def _issue(self, _request: Any, _call: Any) -> auth_pb2.IssueServiceTokenResponse:
        await asyncio.sleep(0.02)  # so that who asks at the same time really does
        if self.failure is not None:
            raise self.failure
        expire_time = Timestamp()
        expire_time.FromNanoseconds(int((time.time() + self.token_seconds) * 1e9))
        self.issued.append(self.keys.service_token(*METHODS, account_id=self.account_id))
        return auth_pb2.IssueServiceTokenResponse(access_token=self.issued[-1], expire_time=expire_time)

    async def _watch(self, request: Any, _call: Any) -> AsyncIterator[auth_pb2.WatchRevocationsResponse]:
        response = auth_pb2.WatchRevocationsResponse
        cursor = request.after_sequence
        self.cursors.append(cursor)
        if cursor > len(self.revocations):
            raise CursorInvalid
        if cursor + 1 < self.first_kept:
            yield response(gap=response.Gap(first_sequence=cursor + 1, last_sequence=self.first_kept - 1))
            cursor = self.first_kept - 1
        while True:
            new = self.revocations[cursor:]
            cursor += len(new)
            if not self.is_silent:
                yield response(revocations=new, caught_up=response.CaughtUp(sequence=cursor))
            async with self._news:
                await self._news.wait()

    async def _record(self, request: Any, _call: Any) -> auth_pb2.RecordRefusalsResponse:
        if self.failure is not None:
            raise self.failure
        self.recorded.append(list(request.refusals))
        return auth_pb2.RecordRefusalsResponse()


def settings_for(address: str, tmp_path: Any, **values: Any) -> ServiceSettings:
    """Settings of a service whose auth is at this address."""
    return service_settings(auth_target=address, data_dir=tmp_path, **values)


async def eventually(holds: Any, seconds: float = 5.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110  # it has no event
            await asyncio.sleep(0.01)
