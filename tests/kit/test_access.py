"""Who may call what: only a token of ours opens a door, only its own, and only until it expires."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
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
from grpc import StatusCode

from parley.auth.v1 import auth_service_pb2 as auth_pb2
from parley.auth.v1 import auth_service_pb2_grpc as auth_grpc
from parley.common.v1 import access_pb2
from parley.file.v1 import file_service_pb2 as pb2
from services.kit import jwks
from services.kit.access import Caller, TokenVerifier, bearer_token
from services.kit.calls import Registration, may_call
from services.kit.errors import DependencyUnavailable, TokenExpired, TokenInvalid, TokenMissing
from services.kit.ids import uuid7
from services.kit.jwks import open_remote_keys
from services.kit.outgoing import CHANNEL_OPTIONS
from services.kit.server import Service, running
from tests.kit.conftest import KINDS, Start, call_of_kind, service_of, service_settings
from tests.support import AUDIENCE, ISSUER, KID, TestKeys, bearer, raises_status

USER = uuid4()
CLAIMS = ("iss", "aud", "sub", "sid", "client_id", "jti", "iat", "exp")
MakeToken = Callable[[TestKeys], str]
HEADERS = {"typ": "at+jwt", "kid": KID}


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def unsigned(keys: TestKeys) -> str:
    return f"{encoded({'alg': 'none', **HEADERS})}.{encoded(keys.claims(USER))}."


def signed_with_the_public_key_as_secret(keys: TestKeys) -> str:
    public = keys.private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return jwt.encode(keys.claims(USER), public, "HS256", headers=HEADERS)


def with_claims_changed_after_signing(keys: TestKeys) -> str:
    head, _, signature = keys.token(USER).split(".")
    return f"{head}.{encoded(keys.claims(uuid4()))}.{signature}"


def with_headers(keys: TestKeys, **changed: Any) -> str:
    headers = {name: value for name, value in (HEADERS | changed).items() if value is not None}
    return jwt.encode(keys.claims(USER), keys.private, "EdDSA", headers=headers)


def without(claim: str) -> MakeToken:
    return lambda keys: keys.token(USER, **{claim: None})


BAD_TOKENS: dict[str, MakeToken] = {
    "not a JWT": lambda _: "nonsense",
    "three empty parts": lambda _: "..",
    "a header that is no JSON": lambda _: "YQ.YQ.YQ",
    "a header nested beyond all measure": lambda _: (
        base64.urlsafe_b64encode(b'{"alg":' + b"[" * 2900).rstrip(b"=").decode() + ".e30.e30"
    ),
    "longer than any of ours": lambda keys: keys.token(USER, scope="x" * 5000),
    "alg none": unsigned,
    "HS256 with the public key as secret": signed_with_the_public_key_as_secret,
    "a stranger's key": lambda _: TestKeys().token(USER),
    "claims changed after signing": with_claims_changed_after_signing,
    "no signature": lambda keys: keys.token(USER).rsplit(".", 1)[0] + ".",
    "another audience": lambda keys: keys.token(USER, aud="another"),
    "our audience among others": lambda keys: keys.token(USER, aud=["parley", "another"]),
    "another issuer": lambda keys: keys.token(USER, iss="another"),
    "typ JWT": lambda keys: with_headers(keys, typ="JWT"),
    "no kid": lambda keys: with_headers(keys, kid=None),
    "an unknown kid": lambda keys: with_headers(keys, kid="unknown"),
    "a kid that is no text": lambda _: f"{encoded({'alg': 'EdDSA', 'typ': 'at+jwt', 'kid': 7})}.e30.YQ",
    "an unknown header": lambda keys: with_headers(keys, jku="https://example.com/keys"),
    "a critical header": lambda keys: with_headers(keys, crit=["exp"]),
    "a subject that is no UUID": lambda keys: keys.token(USER, sub="ann"),
    "a session that is no UUID": lambda keys: keys.token(USER, sid=7),
    **{f"no {claim}": without(claim) for claim in CLAIMS},
}


@pytest.mark.parametrize("case", BAD_TOKENS)
async def test_a_token_that_is_not_a_good_one_of_ours_opens_nothing(start: Start, keys: TestKeys, case: str) -> None:
    channel = await start()
    token = BAD_TOKENS[case](keys)
    with raises_status(StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"):
        await call_of_kind(channel, "GetFile", bearer(token))


async def test_an_expired_token_is_told_apart_for_every_kind_of_call(start: Start, keys: TestKeys) -> None:
    channel = await start()
    for name in KINDS:
        with raises_status(StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED"):
            await call_of_kind(channel, name, bearer(keys.token(USER, exp=int(time.time()) - 1)))


@pytest.mark.parametrize(
    ("metadata", "failure"),
    [
        ((), TokenMissing),
        ((("x-authorization", "Bearer a"),), TokenMissing),
        ((("authorization", "Bearer a"), ("authorization", "Bearer a")), TokenInvalid),
        ((("authorization", ""),), TokenInvalid),
        ((("authorization", "Bearer"),), TokenInvalid),
        ((("authorization", "Bearer "),), TokenInvalid),
        ((("authorization", "Basic YTpi"),), TokenInvalid),
    ],
)
async def test_only_one_bearer_token_in_the_metadata_counts(
    start: Start, metadata: Any, failure: type[TokenMissing | TokenInvalid]
) -> None:
    with pytest.raises(failure):
        bearer_token(metadata)
    with raises_status(StatusCode.UNAUTHENTICATED, failure.reason):
        await call_of_kind(await start(), "GetFile", metadata)


def test_the_schemes_name_is_of_either_case() -> None:
    assert bearer_token((("authorization", "bearer a.b.c"),)) == "a.b.c"


async def test_the_handler_learns_who_calls(start: Start, keys: TestKeys) -> None:
    callers: list[Caller] = []

    async def see(_request: Any, call: Any) -> pb2.GetFileResponse:
        callers.append(call.caller)
        return pb2.GetFileResponse()

    session = uuid7()
    metadata = bearer(keys.token(USER, sid=str(session), scope="admin  reports"))
    channel = await start(GetFile=see)
    for _ in range(2):  # The second from memory.
        await call_of_kind(channel, "GetFile", metadata)
    for caller in callers:
        assert (caller.user_id, caller.session_id, caller.client_id) == (USER, session, "tests")
        assert caller.scopes == {"admin", "reports"}


async def test_a_clock_that_is_a_little_behind_the_issuers_is_no_reason_to_refuse(keys: TestKeys) -> None:
    verifier = TokenVerifier(keys, issuer=ISSUER, audience=AUDIENCE)
    assert (await verifier.verify(keys.token(USER, iat=int(time.time()) + 5))).user_id == USER


async def test_a_token_is_verified_once_and_not_remembered_beyond_its_expiry(
    keys: TestKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = TokenVerifier(keys, issuer=ISSUER, audience=AUDIENCE)
    expiry = int(time.time()) + 100
    token = keys.token(USER, exp=expiry)
    assert verifier.recall(token) is None
    caller = await verifier.verify(token)
    assert verifier.recall(token) is caller
    monkeypatch.setattr("services.kit.access.time.time", lambda: expiry - 0.01)
    assert verifier.recall(token) is caller
    monkeypatch.setattr("services.kit.access.time.time", lambda: float(expiry))
    with pytest.raises(TokenExpired):
        verifier.recall(token)


async def test_no_more_tokens_are_remembered_than_the_bound(keys: TestKeys) -> None:
    verifier = TokenVerifier(keys, issuer=ISSUER, audience=AUDIENCE, remembered=3)
    tokens = [keys.token(USER) for _ in range(5)]
    for token in tokens:
        await verifier.verify(token)
    assert [verifier.recall(token) is not None for token in tokens] == [False, False, True, True, True]


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        ("", {"PUBLIC", "USER"}),
        ("admin", {"PUBLIC", "USER", "ADMIN"}),
        ("service", {"PUBLIC", "SERVICE"}),
        ("administrator services", {"PUBLIC", "USER"}),
    ],
)
def test_each_kind_of_caller_may_call_its_own_methods(scopes: str, allowed: set[str]) -> None:
    caller = Caller(USER, uuid4(), "tests", frozenset(scopes.split()), frozenset({"a.v1.A/B"}), 0)
    found = {
        name.removeprefix("ACCESS_")
        for name, access in access_pb2.Access.items()
        if may_call(access, caller, "a.v1.A/B")
    }
    assert found == allowed


async def test_a_caller_of_another_kind_is_denied(start: Start, keys: TestKeys) -> None:
    with raises_status(StatusCode.PERMISSION_DENIED, "ACCESS_DENIED"):
        await call_of_kind(await start(), "GetFile", bearer(keys.token(USER, scope="service")))


# --- the keys of auth, over the network -------------------------------------------------------------------------------


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
