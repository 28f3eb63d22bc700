"""Who may call what: only a token of ours opens a door, only its own, and only until it expires."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from grpc import StatusCode

from parley.common.v1 import access_pb2
from parley.file.v1 import file_service_pb2 as pb2
from services.kit.access import Caller, TokenVerifier, bearer_token
from services.kit.calls import may_call
from services.kit.errors import TokenExpired, TokenInvalid, TokenMissing
from services.kit.ids import uuid7
from tests.kit.conftest import KINDS, Start, call_of_kind
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


def with_claim(claim: str, value: Any) -> MakeToken:
    return lambda keys: keys.token(USER, **{claim: value})


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
    **{
        f"{claim} {value!r}": with_claim(claim, value)
        for claim, value in [
            *((claim, value) for claim in ("iat", "nbf", "exp") for value in (True, "4102444800", 4102444800.5, [1])),
            ("client_id", 7),
            ("scope", ["admin"]),
            ("methods", "a.v1.A/B"),
            ("methods", [7]),
        ]
    },
    "issued in the future": lambda keys: keys.token(USER, iat=int(time.time()) + 40),
    "good in the future": lambda keys: keys.token(USER, nbf=int(time.time()) + 40),
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


@pytest.mark.parametrize("claim", ["iat", "nbf"])
async def test_a_clock_that_is_a_little_behind_the_issuers_is_no_reason_to_refuse(keys: TestKeys, claim: str) -> None:
    verifier = TokenVerifier(keys, issuer=ISSUER, audience=AUDIENCE)
    assert (await verifier.verify(keys.token(USER, **{claim: int(time.time()) + 25}))).user_id == USER


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


@pytest.mark.parametrize(
    ("methods", "allowed"),
    [
        ([], False),
        (["a.v1.A/B"], True),
        (["a.v1.A/C", "a.v1.A/*"], True),
        (["a.v1.A/C"], False),
        (["a.v1.AB/*"], False),
        (["a.v1.A"], False),
        (["*"], False),
        (["a.v1.*"], False),
        (["a.v1.A/b"], False),
    ],
)
async def test_a_service_may_call_what_its_account_lists(keys: TestKeys, methods: list[str], allowed: bool) -> None:
    verifier = TokenVerifier(keys, issuer=ISSUER, audience=AUDIENCE)
    caller = await verifier.verify(keys.service_token(*methods))
    assert caller.is_service
    assert may_call(access_pb2.ACCESS_SERVICE, caller, "a.v1.A/B") is allowed


async def test_a_user_is_no_service_whatever_methods_its_token_lists(keys: TestKeys) -> None:
    verifier = TokenVerifier(keys, issuer=ISSUER, audience=AUDIENCE)
    caller = await verifier.verify(keys.admin_token(USER, methods=["a.v1.A/B"]))
    assert (caller.is_admin, caller.is_service) == (True, False)
    assert not may_call(access_pb2.ACCESS_SERVICE, caller, "a.v1.A/B")


async def test_a_caller_of_another_kind_is_denied(start: Start, keys: TestKeys) -> None:
    with raises_status(StatusCode.PERMISSION_DENIED, "ACCESS_DENIED"):
        await call_of_kind(await start(), "GetFile", bearer(keys.token(USER, scope="service")))
