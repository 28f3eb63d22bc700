"""The part of AuthService that is for other services: keys, revocations, and tokens of their own."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from google.protobuf.duration_pb2 import Duration

from parley.auth.v1 import auth_service_pb2 as pb2
from services.auth.domain.key_ring import KeyRing
from services.auth.domain.refusals import Refusals
from services.auth.domain.revocations import RevocationWatch
from services.auth.domain.service_accounts import ServiceAccounts
from services.auth.mapping.keys import to_jwk
from services.auth.mapping.revocations import to_watch_responses
from services.auth.mapping.services import from_refusals
from services.kit.calls import Call
from services.kit.timestamps import to_timestamp


class TokenRpcs:
    """Keys, revocations, refusals, and the tokens of services."""

    def __init__(
        self, keys: KeyRing, revocations: RevocationWatch, accounts: ServiceAccounts, refusals: Refusals
    ) -> None:
        self._keys = keys
        self._revocations = revocations
        self._accounts = accounts
        self._refusals = refusals

    async def GetJwks(self, request: pb2.GetJwksRequest, call: Call) -> pb2.GetJwksResponse:
        keys, kept = await self._keys.published()
        max_age = Duration()
        max_age.FromTimedelta(kept)
        return pb2.GetJwksResponse(keys=[to_jwk(key) for key in keys], max_age=max_age)

    async def IssueServiceToken(
        self, request: pb2.IssueServiceTokenRequest, call: Call
    ) -> pb2.IssueServiceTokenResponse:
        token = await self._accounts.issue_service_token(request.client_id, request.client_secret, call.origin)
        return pb2.IssueServiceTokenResponse(
            access_token=token.token, token_type="Bearer", expire_time=to_timestamp(token.expire_time)
        )

    async def WatchRevocations(
        self, request: pb2.WatchRevocationsRequest, call: Call
    ) -> AsyncIterator[pb2.WatchRevocationsResponse]:
        async with aclosing(self._revocations.watch(request.after_sequence)) as watch:
            async for item in watch:
                for response in to_watch_responses(item):
                    yield response

    async def RecordRefusals(self, request: pb2.RecordRefusalsRequest, call: Call) -> pb2.RecordRefusalsResponse:
        await self._refusals.record_refusals(from_refusals(request.refusals))
        return pb2.RecordRefusalsResponse()
