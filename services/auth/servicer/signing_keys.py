"""The part of UserService that is about signing keys."""

from parley.auth.v1 import user_service_pb2 as pb2
from services.auth.domain.signing_keys import SigningKeys
from services.auth.mapping.keys import to_signing_key
from services.auth.servicer.actor import actor_of
from services.kit.calls import Call


class SigningKeyRpcs:
    """From a key's making to its end."""

    def __init__(self, keys: SigningKeys) -> None:
        self._keys = keys

    async def CreateSigningKey(self, request: pb2.CreateSigningKeyRequest, call: Call) -> pb2.CreateSigningKeyResponse:
        key = await self._keys.create_signing_key(actor_of(call))
        return pb2.CreateSigningKeyResponse(signing_key=to_signing_key(key, self._keys.ready_time(key)))

    async def ListSigningKeys(self, request: pb2.ListSigningKeysRequest, call: Call) -> pb2.ListSigningKeysResponse:
        keys = await self._keys.list_signing_keys(actor_of(call))
        return pb2.ListSigningKeysResponse(
            signing_keys=[to_signing_key(key, self._keys.ready_time(key)) for key in keys]
        )

    async def ActivateSigningKey(
        self, request: pb2.ActivateSigningKeyRequest, call: Call
    ) -> pb2.ActivateSigningKeyResponse:
        key = await self._keys.activate_signing_key(request.kid, actor_of(call))
        return pb2.ActivateSigningKeyResponse(signing_key=to_signing_key(key, self._keys.ready_time(key)))

    async def RetireSigningKey(self, request: pb2.RetireSigningKeyRequest, call: Call) -> pb2.RetireSigningKeyResponse:
        key = await self._keys.retire_signing_key(request.kid, actor_of(call), immediately=request.immediately)
        if key is None:
            return pb2.RetireSigningKeyResponse()
        return pb2.RetireSigningKeyResponse(signing_key=to_signing_key(key, self._keys.ready_time(key)))
