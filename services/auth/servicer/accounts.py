"""The part of AuthService that is about the caller's account."""

from parley.auth.v1 import auth_service_pb2 as pb2
from services.auth.domain.accounts import Accounts
from services.auth.mapping.users import to_user
from services.kit.calls import Call


class AccountRpcs:
    """Registering, and what a user does with its own account."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def Register(self, request: pb2.RegisterRequest, call: Call) -> pb2.RegisterResponse:
        user = await self._accounts.register(request.email, request.password, request.full_name)
        return pb2.RegisterResponse(user=to_user(user))

    async def GetCurrentUser(self, request: pb2.GetCurrentUserRequest, call: Call) -> pb2.GetCurrentUserResponse:
        user = await self._accounts.get_current_user(call.caller.user_id, call.caller.session_id)
        return pb2.GetCurrentUserResponse(user=to_user(user))

    async def SendWelcomeEmail(self, request: pb2.SendWelcomeEmailRequest, call: Call) -> pb2.SendWelcomeEmailResponse:
        await self._accounts.send_welcome_email(call.caller.user_id, call.caller.session_id)
        return pb2.SendWelcomeEmailResponse()
