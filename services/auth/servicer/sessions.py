"""The part of AuthService that is about sessions."""

from uuid import UUID

from parley.auth.v1 import auth_service_pb2 as pb2
from services.auth.domain.sessions import SignIns
from services.auth.mapping.sessions import to_session, to_tokens
from services.auth.mapping.users import to_user
from services.kit.calls import Call


class SessionRpcs:
    """Signing in, staying so, and signing out."""

    def __init__(self, sign_ins: SignIns) -> None:
        self._sign_ins = sign_ins

    async def Login(self, request: pb2.LoginRequest, call: Call) -> pb2.LoginResponse:
        signed_in, user = await self._sign_ins.login(request.email, request.password, request.device_label)
        return pb2.LoginResponse(
            tokens=to_tokens(signed_in),
            session=to_session(signed_in.session),
            user=to_user(user),
        )

    async def RefreshToken(self, request: pb2.RefreshTokenRequest, call: Call) -> pb2.RefreshTokenResponse:
        request_id = UUID(request.request_id) if request.request_id else None
        signed_in = await self._sign_ins.refresh_token(request.refresh_token, request_id)
        return pb2.RefreshTokenResponse(tokens=to_tokens(signed_in), session=to_session(signed_in.session))

    async def Logout(self, request: pb2.LogoutRequest, call: Call) -> pb2.LogoutResponse:
        await self._sign_ins.logout(call.caller.user_id, call.caller.session_id)
        return pb2.LogoutResponse()
