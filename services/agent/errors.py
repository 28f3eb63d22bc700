"""Why a call of the agent service fails: `parley.agent.v1.ErrorReason`."""

from services.kit.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted


class AgentNotFound(NotFound):
    """There is no such agent, or it is somebody else's, or it was deleted."""

    reason = "AGENT_NOT_FOUND"


class AgentNotDeleted(FailedPrecondition):
    """The agent is not deleted."""

    reason = "AGENT_NOT_DELETED"


class RevisionNotFound(NotFound):
    """The agent has no revision of this number."""

    reason = "REVISION_NOT_FOUND"


class EtagMismatch(Aborted):
    """The agent was changed since this etag was read; read it again and repeat."""

    reason = "ETAG_MISMATCH"


class ConfigInvalid(InvalidArgument):
    """The config cannot be stored without loss."""

    reason = "CONFIG_INVALID"


class AgentLimitReached(ResourceExhausted):
    """The caller has as many agents as one user may have; delete one first."""

    reason = "AGENT_LIMIT_REACHED"
