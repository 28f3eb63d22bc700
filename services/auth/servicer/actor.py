"""Who calls, as the audit log names it."""

from services.auth.domain.actor import Actor
from services.kit.calls import Call


def actor_of(call: Call) -> Actor:
    """The caller of an RPC that is not PUBLIC."""
    return Actor(call.caller.user_id, call.caller.session_id, call.origin)
