"""The keys of auth, over the network: asked for once, kept while auth is away, and given up when they are gone."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.duration_pb2 import Duration

from parley.auth.v1 import auth_service_pb2 as auth_pb2
from parley.auth.v1 import auth_service_pb2_grpc as auth_grpc
from services.kit import jwks
from services.kit.access import TokenVerifier
from services.kit.calls import Registration
from services.kit.errors import DependencyUnavailable, TokenInvalid
from services.kit.jwks import open_remote_keys
from services.kit.outgoing import CHANNEL_OPTIONS
from services.kit.server import Service, running
from tests.kit.conftest import service_of, service_settings
from tests.support import AUDIENCE, ISSUER, KID, TestKeys, bearer

USER = uuid4()


class FakeAuth:
    """An auth service of which only GetJwks is called, and counted."""

    def __init__(self) -> None:
        self.keys = {KID: Ed25519PrivateKey.generate()}
        self.asked = 0
        self.max_age = 300.0
        self.answers = asyncio.Event()
        self.answers.set()

    def token(self, kid: str = KID) -> str:
        claims = TestKeys().claims(USER)
        return jwt.encode(claims, self.keys[kid], "EdDSA", headers={"typ": "at+jwt", "kid": kid})

    async def get_jwks(self, _request: Any, _call: Any) -> auth_pb2.GetJwksResponse:
        self.asked += 1
        await self.answers.wait()
        max_age = Duration()
        max_age.FromMilliseconds(int(self.max_age * 1000))
        found = []
        for kid, key in self.keys.items():
            public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
            x = base64.urlsafe_b64encode(public).rstrip(b"=").decode()
            found.append(auth_pb2.Jwk(kty="OKP", crv="Ed25519", kid=kid, x=x, alg="EdDSA", use="sig"))
        return auth_pb2.GetJwksResponse(keys=found, max_age=max_age)

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[str]:
        service = auth_pb2.DESCRIPTOR.services_by_name["AuthService"]
        methods = dict.fromkeys(service.methods_by_name, self.get_jwks)
        registration = Registration(service, SimpleNamespace(**methods))
        fake = Service("auth", [registration], service_of(TestKeys()).identity, lambda: True)
        async with running(fake, service_settings(drain_seconds=0.1), port=port) as address:
            yield address


@asynccontextmanager
async def verifying(address: str) -> AsyncIterator[TokenVerifier]:
    async with (
        grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel,
        open_remote_keys(auth_grpc.AuthServiceStub(channel)) as keys,
    ):
        verifier = TokenVerifier(keys, issuer=ISSUER, audience=AUDIENCE)
        keys.on_gone = verifier.forget_all
        yield verifier


async def test_the_keys_of_auth_are_fetched_once_for_all_who_wait_for_them() -> None:
    auth = FakeAuth()
    async with auth.serving() as address, verifying(address) as verifier:
        callers = await asyncio.gather(*(verifier.verify(auth.token()) for _ in range(20)))
    assert {caller.user_id for caller in callers} == {USER}
    assert auth.asked == 1


async def test_an_unknown_kid_asks_auth_again_but_not_for_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    auth = FakeAuth()
    async with auth.serving() as address, verifying(address) as verifier:
        await verifier.verify(auth.token())
        auth.keys["new"] = Ed25519PrivateKey.generate()
        for _ in range(50):
            with pytest.raises(TokenInvalid):
                await verifier.verify(auth.token("new"))
        assert auth.asked == 1
        later = time.monotonic() + jwks.REFETCH_INTERVAL
        monkeypatch.setattr("services.kit.jwks.time", SimpleNamespace(monotonic=lambda: later))
        assert (await verifier.verify(auth.token("new"))).user_id == USER
        assert auth.asked == 2


async def test_an_unknown_kid_is_not_called_wrong_while_auth_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    auth = FakeAuth()
    async with AsyncExitStack() as stack:
        async with auth.serving() as address:
            verifier = await stack.enter_async_context(verifying(address))
            await verifier.verify(auth.token())
        auth.keys["new"] = Ed25519PrivateKey.generate()
        later = time.monotonic() + jwks.REFETCH_INTERVAL
        monkeypatch.setattr("services.kit.jwks.time", SimpleNamespace(monotonic=lambda: later))
        for _ in range(2):
            with pytest.raises(DependencyUnavailable):
                await verifier.verify(auth.token("new"))
        assert (await verifier.verify(auth.token())).user_id == USER


async def test_keys_at_hand_stay_good_while_auth_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    auth = FakeAuth()
    auth.max_age = 0.01
    async with AsyncExitStack() as stack:
        async with auth.serving() as address:
            verifier = await stack.enter_async_context(verifying(address))
            await verifier.verify(auth.token())
        now = time.monotonic()
        monkeypatch.setattr("services.kit.jwks.time", SimpleNamespace(monotonic=lambda: now + 60))
        assert (await verifier.verify(auth.token())).user_id == USER


async def test_a_key_that_auth_no_longer_gives_is_soon_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    auth = FakeAuth()
    auth.keys["old"] = Ed25519PrivateKey.generate()
    async with auth.serving() as address, verifying(address) as verifier:
        old = auth.token("old")
        await verifier.verify(auth.token())
        del auth.keys["old"]
        now = time.monotonic()
        monkeypatch.setattr("services.kit.jwks.time", SimpleNamespace(monotonic=lambda: now + 301))

        async def use_it_on_and_on() -> None:
            while True:
                await verifier.verify(old)
                await asyncio.sleep(0.01)

        with pytest.raises(TokenInvalid):
            await asyncio.wait_for(use_it_on_and_on(), 5)


async def test_a_token_of_a_key_that_is_gone_is_refused_also_when_it_was_good_before() -> None:
    auth = FakeAuth()
    auth.max_age = 0.05
    auth.keys["old"] = Ed25519PrivateKey.generate()
    async with auth.serving() as address, verifying(address) as verifier:
        old = auth.token("old")
        await verifier.verify(old)
        del auth.keys["old"]

        async def use_it_on_and_on() -> None:
            while True:
                _ = verifier.recall(old) or await verifier.verify(old)
                await asyncio.sleep(0.01)

        with pytest.raises(TokenInvalid):
            await asyncio.wait_for(use_it_on_and_on(), jwks.REFETCH_INTERVAL + 5)


async def test_an_auth_that_hangs_holds_up_nobody_whose_key_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    auth = FakeAuth()
    async with auth.serving() as address, verifying(address) as verifier:
        await verifier.verify(auth.token())
        auth.answers.clear()
        now = time.monotonic()
        monkeypatch.setattr("services.kit.jwks.time", SimpleNamespace(monotonic=lambda: now + 301))
        async with asyncio.timeout(1):
            for _ in range(20):
                assert (await verifier.verify(auth.token())).user_id == USER
                await asyncio.sleep(0.01)
        assert auth.asked == 2


async def test_without_any_keys_a_call_is_told_to_come_back_and_works_once_auth_is_there() -> None:
    auth = FakeAuth()
    async with auth.serving() as address:
        port = int(address.rsplit(":", 1)[1])
    async with verifying(address) as verifier:
        started_at = time.monotonic()
        results = await asyncio.gather(*(verifier.verify(auth.token()) for _ in range(20)), return_exceptions=True)
        assert {type(result) for result in results} == {DependencyUnavailable}
        assert time.monotonic() - started_at < 2 * jwks.FETCH_TIMEOUT
        async with auth.serving(port):
            async with asyncio.timeout(8):
                while True:
                    try:
                        assert (await verifier.verify(auth.token())).user_id == USER
                        break
                    except DependencyUnavailable:
                        await asyncio.sleep(0.1)


async def test_a_public_method_does_not_look_at_the_token() -> None:
    async with FakeAuth().serving() as address, grpc.aio.insecure_channel(address) as channel:
        stub = auth_grpc.AuthServiceStub(channel)
        answer = await stub.GetJwks(auth_pb2.GetJwksRequest(), metadata=bearer("nonsense"), timeout=5)
        assert len(answer.keys) == 1
