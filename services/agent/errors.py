"""Why a call of the agent service fails, or an execution does not succeed: `parley.agent.v1.ErrorReason`."""

from services.kit.errors import (
    Aborted,
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    ResourceExhausted,
)


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


class ExecutionNotFound(NotFound):
    """There is no such execution, or it is somebody else's."""

    reason = "EXECUTION_NOT_FOUND"


class AgentInactive(FailedPrecondition):
    """The agent is not active; set its `is_active` first."""

    reason = "AGENT_INACTIVE"


class ModelUnavailable(FailedPrecondition):
    """This installation has no provider for the agent's `model_name`."""

    reason = "MODEL_UNAVAILABLE"


class ToolsInvalid(FailedPrecondition):
    """The agent's `config.tools` does not name tools that this installation has."""

    reason = "TOOLS_INVALID"


class InputFileRefused(InvalidArgument):
    """A file cannot be an input of this execution."""

    reason = "INPUT_FILE_REFUSED"


class ConversationBusy(FailedPrecondition):
    """An execution of this conversation has not ended; wait, cancel it, or say in `overlap` what is to happen."""

    reason = "CONVERSATION_BUSY"


class ExecutionLimitReached(ResourceExhausted):
    """The caller has as many executions that have not ended as one user may have."""

    reason = "EXECUTION_LIMIT_REACHED"


class CursorInvalid(OutOfRange):
    """The cursor lies beyond the execution's last event, so it is not a cursor of this execution."""

    reason = "CURSOR_INVALID"


class RunFailure(DomainError):
    """Why an execution has not succeeded. It is kept with the execution and is no answer to a call."""


class ProviderUnavailable(RunFailure):
    """The provider of the model could not be reached, or has a fault."""

    reason = "PROVIDER_UNAVAILABLE"


class ProviderOverloaded(RunFailure):
    """The provider of the model has too much to do."""

    reason = "PROVIDER_OVERLOADED"


class ProviderRefused(RunFailure):
    """The provider of the model does not take what it was asked."""

    reason = "PROVIDER_REFUSED"


class ProviderInterrupted(RunFailure):
    """The answer of the model's provider broke off."""

    reason = "PROVIDER_INTERRUPTED"


class ProviderSilent(RunFailure):
    """Nothing came from the model's provider for too long."""

    reason = "PROVIDER_SILENT"


class ProviderGarbled(RunFailure):
    """What the model's provider sent cannot be understood."""

    reason = "PROVIDER_GARBLED"


class ModelDeclined(RunFailure):
    """The model does not want to answer this."""

    reason = "MODEL_DECLINED"


class ToolsUnavailable(RunFailure):
    """Tools that the agent names cannot be had."""

    reason = "TOOLS_UNAVAILABLE"


class TooManyToolRounds(RunFailure):
    """The model wanted tools more often in a row than is allowed."""

    reason = "TOO_MANY_TOOL_ROUNDS"


class OutputTooLarge(RunFailure):
    """The answer is longer than what is kept."""

    reason = "OUTPUT_TOO_LARGE"


class RunInterrupted(RunFailure):
    """The process that ran the execution was lost, and it cannot be begun again."""

    reason = "RUN_INTERRUPTED"


class RunFault(RunFailure):
    """A fault of the server."""

    reason = "RUN_FAULT"


class OverBudget(RunFailure):
    """The execution would have gone beyond its budget."""


class MaxTokensReached(OverBudget):
    """The model had more to say than it might."""

    reason = "MAX_TOKENS_REACHED"


class TimeoutReached(OverBudget):
    """The execution ran for as long as it may."""

    reason = "TIMEOUT_REACHED"


class Cancelled(RunFailure):
    """The execution was cancelled by something else than its owner's word."""


class Abandoned(Cancelled):
    """Nobody watched the execution."""

    reason = "ABANDONED"


class Replaced(Cancelled):
    """Another execution of the conversation took its place."""

    reason = "REPLACED"


class AgentDeleted(Cancelled):
    """The agent was deleted."""

    reason = "AGENT_DELETED"
