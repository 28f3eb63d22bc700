"""No forged or altered access token opens any RPC of any service."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.descriptor import MethodDescriptor

from parley.common.v1 import access_pb2
from services.kit.ids import uuid7
from tests.conftest import Serve
from tests.forgery import Forger, Metadata
from tests.stage import Stage, all_rpcs, first_answer, open_stage, service_claims
from tests.support import TestKeys, bearer, reason_of, status_of

pytestmark = pytest.mark.slow

REFUSALS = {"TOKEN_MISSING", "TOKEN_INVALID", "TOKEN_EXPIRED"}
AT_A_TIME = 64
LEAST = 40
# Every RPC gets a third of the forgeries, and the next one the next third: so all of them come to each service.
SHARES = 3
Access = access_pb2.Access
GUARDED = {
    rpc: method
    for rpc, method in all_rpcs().items()
    if method.GetOptions().Extensions[access_pb2.access] != access_pb2.ACCESS_PUBLIC
}


@pytest.fixture
async def stage(serve: Serve, settings: Callable[..., Any], database_url: str, keys: TestKeys) -> Any:
    """The four services on one database."""
    with psycopg.connect(database_url, autocommit=True) as rows:
        yield await open_stage(serve, settings, rows, keys)


def forgers(stage: Stage, keys: TestKeys) -> dict[int, Forger]:
    """Forgers that start from a good token of the right kind, by the access that it gives."""
    user, admin, other = stage.person("user"), stage.person("admin", admin=True), stage.person("other")
    services = sorted({f"{rpc.split('/')[0]}/*" for rpc in GUARDED})
    account_id = uuid7()
    others = keys.claims(other.id, sid=str(other.session_id))
    users = keys.claims(user.id, sid=str(user.session_id))
    admins = keys.claims(admin.id, sid=str(admin.session_id), scope="admin")
    return {
        access_pb2.ACCESS_USER: Forger(keys, users, admins),
        access_pb2.ACCESS_ADMIN: Forger(keys, admins, others),
        access_pb2.ACCESS_SERVICE: Forger(
            keys, keys.claims(account_id, **service_claims(account_id, "tests", services)), others
        ),
    }


async def test_no_forged_token_is_accepted_by_any_rpc_and_the_good_one_is_by_each(stage: Stage, keys: TestKeys) -> None:
    made = forgers(stage, keys)
    # First the good ones, so that verified tokens are remembered by the time the forgeries of them come.
    for rpc, method in GUARDED.items():
        code, reason = await _outcome(stage, rpc, method, bearer(made[_access(method)].good))
        assert code not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED), f"{rpc}: {reason}"
        if rpc.endswith("/Logout"):
            made = forgers(stage, keys)
    forgeries = {access: forger.all() for access, forger in made.items()}
    turn = asyncio.Semaphore(AT_A_TIME)

    async def attempt(rpc: str, method: MethodDescriptor, what: str, metadata: Metadata) -> str | None:
        async with turn:
            code, reason = await _outcome(stage, rpc, method, metadata)
        # SESSION_REVOKED would mean that the token itself was believed.
        if code == grpc.StatusCode.UNAUTHENTICATED and reason in REFUSALS:
            return None
        return f"{rpc} with {what}: {code.name} {reason}"

    attempts = []
    for number, (rpc, method) in enumerate(GUARDED.items()):
        share = list(forgeries[_access(method)].items())[number % SHARES :: SHARES]
        assert len(share) >= LEAST
        attempts += [attempt(rpc, method, what, metadata) for what, metadata in share]
    accepted = [outcome for outcome in await asyncio.gather(*attempts) if outcome is not None]
    assert accepted == [], f"{len(accepted)} of {len(attempts)}:\n" + "\n".join(accepted[:50])


def _access(method: MethodDescriptor) -> int:
    return int(method.GetOptions().Extensions[access_pb2.access])


async def _outcome(stage: Stage, rpc: str, method: MethodDescriptor, metadata: Any) -> tuple[grpc.StatusCode, str]:
    try:
        await first_answer(stage.channel(rpc), method, [b""], metadata)
    except grpc.aio.AioRpcError as error:
        return error.code(), reason_of(status_of(error))
    return grpc.StatusCode.OK, ""
