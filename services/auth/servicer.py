"""`parley.auth.v1.AuthService`: protobuf in, one call of the domain, protobuf out."""

from uuid import UUID

from google.protobuf.duration_pb2 import Duration

from parley.auth.v1 import auth_service_pb2 as pb2
from services.auth import mapping
from services.auth.domain.accounts import Accounts
from services.auth.domain.sessions import SignIns
from services.auth.domain.signing import JWKS_MAX_AGE, SigningKeys
from services.kit.calls import Call


class AuthServicer:
    """The RPCs of AuthService; what each promises stands in the proto."""

    def __init__(self, accounts: Accounts, sign_ins: SignIns, keys: SigningKeys) -> None:
        self._accounts = accounts
        self._sign_ins = sign_ins
        self._keys = keys

    async def Register(self, request: pb2.RegisterRequest, call: Call) -> pb2.RegisterResponse:
        user = await self._accounts.register(request.email, request.password, request.full_name)
        return pb2.RegisterResponse(user=mapping.to_user(user))

    async def Login(self, request: pb2.LoginRequest, call: Call) -> pb2.LoginResponse:
        signed_in, user = await self._sign_ins.login(request.email, request.password, request.device_label)
        return pb2.LoginResponse(
            tokens=mapping.to_tokens(signed_in),
            session=mapping.to_session(signed_in.session),
            user=mapping.to_user(user),
        )

    async def RefreshToken(self, request: pb2.RefreshTokenRequest, call: Call) -> pb2.RefreshTokenResponse:
        request_id = UUID(request.request_id) if request.request_id else None
        signed_in = await self._sign_ins.refresh_token(request.refresh_token, request_id)
        return pb2.RefreshTokenResponse(
            tokens=mapping.to_tokens(signed_in), session=mapping.to_session(signed_in.session)
        )

    async def Logout(self, request: pb2.LogoutRequest, call: Call) -> pb2.LogoutResponse:
        await self._sign_ins.logout(call.caller.session_id)
        return pb2.LogoutResponse()

    async def GetCurrentUser(self, request: pb2.GetCurrentUserRequest, call: Call) -> pb2.GetCurrentUserResponse:
        user = await self._accounts.get_current_user(call.caller.user_id, call.caller.session_id)
        return pb2.GetCurrentUserResponse(user=mapping.to_user(user))

    async def SendWelcomeEmail(self, request: pb2.SendWelcomeEmailRequest, call: Call) -> pb2.SendWelcomeEmailResponse:
        await self._accounts.send_welcome_email(call.caller.user_id, call.caller.session_id)
        return pb2.SendWelcomeEmailResponse()

    async def GetJwks(self, request: pb2.GetJwksRequest, call: Call) -> pb2.GetJwksResponse:
        max_age = Duration()
        max_age.FromTimedelta(JWKS_MAX_AGE)
        return pb2.GetJwksResponse(keys=[mapping.to_jwk(key) for key in await self._keys.public()], max_age=max_age)
