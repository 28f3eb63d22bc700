"""Agents and their revisions, between messages and what the domain works with."""

from typing import cast

from parley.agent.v1 import agent_service_pb2 as pb2
from services.agent.mapping.values import from_struct
from services.agent.models.agents import Agent, Changes, Draft, Revision
from services.kit.errors import FieldViolation, ValidationFailed
from services.kit.masks import masked_fields
from services.kit.messages import violations
from services.kit.structs import fill
from services.kit.timestamps import stamp, to_optional_timestamp, to_timestamp

_CHANGEABLE = list(pb2.AgentPatch.DESCRIPTOR.fields_by_name)


def to_message(agent: Agent) -> pb2.Agent:
    """An agent as its owner sees it."""
    message = pb2.Agent(
        id=str(agent.id),
        user_id=str(agent.user_id),
        name=agent.name,
        description=agent.description,
        model_name=agent.model_name,
        system_prompt=agent.system_prompt,
        is_active=agent.is_active,
        revision=agent.revision,
        etag=agent.etag,
        delete_time=to_optional_timestamp(agent.delete_time),
        purge_time=to_optional_timestamp(agent.purge_time),
    )
    stamp(message.create_time, agent.create_time)
    stamp(message.update_time, agent.update_time)
    fill(message.config, agent.config)
    return message


def to_revision(revision: Revision) -> pb2.AgentRevision:
    """A revision as the agent's owner sees it."""
    message = pb2.AgentRevision(
        revision=revision.revision,
        create_time=to_timestamp(revision.create_time),
        name=revision.name,
        description=revision.description,
        model_name=revision.model_name,
        system_prompt=revision.system_prompt,
        is_active=revision.is_active,
    )
    fill(message.config, revision.config)
    return message


def to_draft(request: pb2.CreateAgentRequest) -> Draft:
    """What the request wants the new agent to be."""
    return Draft(
        name=request.name,
        description=request.description,
        model_name=request.model_name,
        system_prompt=request.system_prompt,
        config=from_struct(request.config),
        is_active=request.is_active if request.HasField("is_active") else True,
    )


def to_changes(request: pb2.UpdateAgentRequest) -> Changes:
    """What the request wants to change. Raises UpdateMaskInvalid, and ValidationFailed as CreateAgent would."""
    paths = masked_fields(request.update_mask.paths, _CHANGEABLE)
    values = {path: getattr(request.agent, path) for path in paths}
    broken = [v for v in violations(pb2.CreateAgentRequest(**values)) if v.field in values]
    if broken:
        raise ValidationFailed(fields=[FieldViolation(f"agent.{v.field}", v.description) for v in broken])
    if "config" in values:
        values["config"] = from_struct(request.agent.config)
    return cast("Changes", values)  # the paths are fields of AgentPatch, and so are the keys of Changes
