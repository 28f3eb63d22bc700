"""The part of AuthService that is about codes that are mailed."""

from parley.auth.v1 import auth_service_pb2 as pb2
from services.auth.domain.email_verification import EmailVerifications
from services.auth.domain.password_reset import PasswordResets
from services.auth.mapping.users import to_user
from services.kit.calls import Call


class CodeRpcs:
    """Resetting a password, and verifying an address."""

    def __init__(self, resets: PasswordResets, verifications: EmailVerifications) -> None:
        self._resets = resets
        self._verifications = verifications

    async def RequestPasswordReset(
        self, request: pb2.RequestPasswordResetRequest, call: Call
    ) -> pb2.RequestPasswordResetResponse:
        await self._resets.request_password_reset(request.email, call.origin)
        return pb2.RequestPasswordResetResponse()

    async def ResetPassword(self, request: pb2.ResetPasswordRequest, call: Call) -> pb2.ResetPasswordResponse:
        await self._resets.reset_password(request.email, request.code, request.new_password, call.origin)
        return pb2.ResetPasswordResponse()

    async def RequestEmailVerification(
        self, request: pb2.RequestEmailVerificationRequest, call: Call
    ) -> pb2.RequestEmailVerificationResponse:
        await self._verifications.request_email_verification(call.caller.user_id, call.caller.session_id, call.origin)
        return pb2.RequestEmailVerificationResponse()

    async def VerifyEmail(self, request: pb2.VerifyEmailRequest, call: Call) -> pb2.VerifyEmailResponse:
        user = await self._verifications.verify_email(
            call.caller.user_id, call.caller.session_id, request.code, call.origin
        )
        return pb2.VerifyEmailResponse(user=to_user(user))
