"""Who may make the calls of one method, and who hears of those that may not."""

import structlog
from google.protobuf.descriptor import MethodDescriptor

from services.kit.access import Caller, bearer_token
from services.kit.calls import PUBLIC, Call, CallPolicy, access_of, may_call
from services.kit.errors import AccessDenied
from services.kit.faults import describe_fault
from services.kit.ids import utc_now, uuid7
from services.kit.refusal_tally import Refusal

log = structlog.get_logger()


class Gate:
    """The way into one method. Raises AccessNotStated if its proto does not say who may call it."""

    def __init__(self, method: MethodDescriptor, name: str, policy: CallPolicy) -> None:
        self.is_open = (access := access_of(method)) == PUBLIC
        """Whether anybody may call, without a token."""
        self.trusted_proxies = policy.trusted_proxies
        self._access = access
        self._name = name
        self._verifier = policy.identity.verifier
        self._on_refusal = policy.identity.on_refusal

    async def enter(self, call: Call) -> None:
        """Find out who calls, from the call's metadata. Raises Unauthenticated failures and AccessDenied."""
        token = bearer_token(call.metadata)
        caller = self._verifier.recall(token) or await self._verifier.verify(token)
        self._check(caller, call)
        call.admit(caller, token)

    async def caller_of(self, token: str, call: Call) -> Caller:
        """Who another token stands for. Raises what the verifier raises, and AccessDenied."""
        caller = self._verifier.recall(token) or await self._verifier.verify(token)
        self._check(caller, call)
        return caller

    def _check(self, caller: Caller, call: Call) -> None:
        """Raises AccessDenied, which is told, for a caller of another kind."""
        if not may_call(self._access, caller, self._name):
            self._tell(caller, call)
            raise AccessDenied

    def _tell(self, caller: Caller, call: Call) -> None:
        refusal = Refusal(uuid7(), utc_now(), self._name, caller.user_id, caller.session_id, call.origin)
        try:
            self._on_refusal(refusal)
        except Exception as error:  # noqa: BLE001  # the caller is refused, whoever hears of it
            log.error("refusal not told", method=self._name, fault=describe_fault(error))  # noqa: TRY400  # as all faults
