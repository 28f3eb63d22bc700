"""Who may make the calls of one method, and who hears of those that may not."""

import structlog
from google.protobuf.descriptor import MethodDescriptor

from services.kit.access import Caller, bearer_token
from services.kit.calls import PUBLIC, Call, CallPolicy, access_of, may_call
from services.kit.errors import AccessDenied
from services.kit.faults import describe_fault
from services.kit.ids import utc_now, uuid7
from services.kit.refusals import Refusal

log = structlog.get_logger()


class Gate:
    """The way into one method. Raises AccessNotStated if its proto does not say who may call it."""

    def __init__(self, method: MethodDescriptor, name: str, policy: CallPolicy) -> None:
        self.is_open = (access := access_of(method)) == PUBLIC
        """Whether anybody may call, without a token."""
        self.trusted_proxies = policy.trusted_proxies
        self._access = access
        self._name = name
        self._identity = policy.identity

    async def enter(self, call: Call) -> None:
        """Find out who calls, from the call's metadata. Raises Unauthenticated failures and AccessDenied."""
        token = bearer_token(call.metadata)
        call.admit(await self.caller_of(token, call), token)

    async def caller_of(self, token: str, call: Call) -> Caller:
        """Who a token stands for. Raises what the verifier raises, and AccessDenied, which is told."""
        verifier = self._identity.verifier
        caller = verifier.recall(token) or await verifier.verify(token)
        if not may_call(self._access, caller, self._name):
            self._tell(caller, call)
            raise AccessDenied
        return caller

    def _tell(self, caller: Caller, call: Call) -> None:
        refusal = Refusal(uuid7(), utc_now(), self._name, caller.user_id, caller.session_id, call.origin)
        try:
            self._identity.on_refusal(refusal)
        except Exception as error:  # noqa: BLE001  # the caller is refused, whoever hears of it
            log.error("refusal not told", method=self._name, fault=describe_fault(error))  # noqa: TRY400  # as all faults
