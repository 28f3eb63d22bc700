"""The part of AuthService that is about the caller's account."""

from parley.auth.v1 import auth_service_pb2 as pb2
from services.auth.domain.accounts import Accounts
from services.auth.domain.password_change import PasswordChanges
from services.auth.mapping.users import to_changes, to_user
from services.kit.calls import Call


class AccountRpcs:
    """Registering, and what a user does with its own account."""

    def __init__(self, accounts: Accounts, password_changes: PasswordChanges) -> None:
        self._accounts = accounts
        self._password_changes = password_changes

    async def Register(self, request: pb2.RegisterRequest, call: Call) -> pb2.RegisterResponse:
        user = await self._accounts.register(request.email, request.password, request.full_name, call.origin)
        return pb2.RegisterResponse(user=to_user(user))

    async def GetCurrentUser(self, request: pb2.GetCurrentUserRequest, call: Call) -> pb2.GetCurrentUserResponse:
        user = await self._accounts.get_current_user(call.caller.user_id, call.caller.session_id)
        return pb2.GetCurrentUserResponse(user=to_user(user))

    async def UpdateCurrentUser(
        self, request: pb2.UpdateCurrentUserRequest, call: Call
    ) -> pb2.UpdateCurrentUserResponse:
        user = await self._accounts.update_current_user(
            call.caller.user_id, call.caller.session_id, to_changes(request), request.etag, call.origin
        )
        return pb2.UpdateCurrentUserResponse(user=to_user(user))

    async def ChangePassword(self, request: pb2.ChangePasswordRequest, call: Call) -> pb2.ChangePasswordResponse:
        await self._password_changes.change_password(
            call.caller.user_id, call.caller.session_id, request.current_password, request.new_password, call.origin
        )
        return pb2.ChangePasswordResponse()

    async def SendWelcomeEmail(self, request: pb2.SendWelcomeEmailRequest, call: Call) -> pb2.SendWelcomeEmailResponse:
        await self._accounts.send_welcome_email(call.caller.user_id, call.caller.session_id, call.origin)
        return pb2.SendWelcomeEmailResponse()
