"""The part of AuthService that is for those who verify tokens."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from google.protobuf.duration_pb2 import Duration

from parley.auth.v1 import auth_service_pb2 as pb2
from services.auth.domain.revocations import RevocationWatch
from services.auth.domain.signing import JWKS_MAX_AGE, SigningKeys
from services.auth.mapping.keys import to_jwk
from services.auth.mapping.revocations import to_watch_response
from services.kit.calls import Call


class TokenRpcs:
    """Keys, revocations, and the tokens of services."""

    def __init__(self, keys: SigningKeys, revocations: RevocationWatch) -> None:
        self._keys = keys
        self._revocations = revocations

    async def GetJwks(self, request: pb2.GetJwksRequest, call: Call) -> pb2.GetJwksResponse:
        max_age = Duration()
        max_age.FromTimedelta(JWKS_MAX_AGE)
        return pb2.GetJwksResponse(keys=[to_jwk(key) for key in await self._keys.public()], max_age=max_age)

    async def WatchRevocations(
        self, request: pb2.WatchRevocationsRequest, call: Call
    ) -> AsyncIterator[pb2.WatchRevocationsResponse]:
        async with aclosing(self._revocations.watch(request.after_sequence)) as watch:
            async for item in watch:
                yield to_watch_response(item)
