"""The part of AuthService that is about sessions."""

from uuid import UUID

from parley.auth.v1 import auth_service_pb2 as pb2
from services.auth.domain.own_sessions import LogoutScope, OwnSessions
from services.auth.domain.sessions import SignIns
from services.auth.mapping.sessions import to_session, to_tokens
from services.auth.mapping.users import to_user
from services.kit.calls import Call
from services.kit.pages import next_page_token, read_page

_SCOPES = {
    pb2.LOGOUT_SCOPE_UNSPECIFIED: LogoutScope.CURRENT,
    pb2.LOGOUT_SCOPE_CURRENT: LogoutScope.CURRENT,
    pb2.LOGOUT_SCOPE_OTHERS: LogoutScope.OTHERS,
    pb2.LOGOUT_SCOPE_ALL: LogoutScope.ALL,
}


class SessionRpcs:
    """Signing in, staying so, and signing out."""

    def __init__(self, sign_ins: SignIns, own_sessions: OwnSessions) -> None:
        self._sign_ins = sign_ins
        self._own = own_sessions

    async def Login(self, request: pb2.LoginRequest, call: Call) -> pb2.LoginResponse:
        signed_in, user = await self._sign_ins.login(request.email, request.password, request.device_label, call.origin)
        session = signed_in.session
        return pb2.LoginResponse(
            tokens=to_tokens(signed_in), session=to_session(session, current=session.id), user=to_user(user)
        )

    async def RefreshToken(self, request: pb2.RefreshTokenRequest, call: Call) -> pb2.RefreshTokenResponse:
        request_id = UUID(request.request_id) if request.request_id else None
        signed_in = await self._sign_ins.refresh_token(request.refresh_token, request_id, call.origin)
        session = signed_in.session
        return pb2.RefreshTokenResponse(tokens=to_tokens(signed_in), session=to_session(session, current=session.id))

    async def Logout(self, request: pb2.LogoutRequest, call: Call) -> pb2.LogoutResponse:
        await self._own.logout(call.caller.user_id, call.caller.session_id, _SCOPES[request.scope], call.origin)
        return pb2.LogoutResponse()

    async def ListSessions(self, request: pb2.ListSessionsRequest, call: Call) -> pb2.ListSessionsResponse:
        user_id, current = call.caller.user_id, call.caller.session_id
        list_name = f"sessions of {user_id}"
        page = await self._own.list_sessions(
            user_id, current, read_page(list_name, request.page_size, request.page_token, request.skip)
        )
        return pb2.ListSessionsResponse(
            sessions=[to_session(session, current) for session in page.items],
            next_page_token=next_page_token(list_name, page.next_after),
            total_size=page.total_size,
        )

    async def RevokeSession(self, request: pb2.RevokeSessionRequest, call: Call) -> pb2.RevokeSessionResponse:
        await self._own.revoke_session(
            call.caller.user_id, call.caller.session_id, UUID(request.session_id), call.origin
        )
        return pb2.RevokeSessionResponse()
