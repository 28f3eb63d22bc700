"""The background jobs of agents, by name."""

from services.kit.jobs import JobName
from services.kit.purge import purge_step

PURGE_DELETED_AGENTS = JobName("agent.purge_deleted_agents")
"""Periodic."""

PURGE_EVENTS = JobName("agent.purge_events")
"""Periodic."""

PURGE_USER = purge_step("agent")
"""Arguments: `user_id`."""
