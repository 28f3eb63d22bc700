"""The background jobs of agents, by name."""

from services.kit.purge import purge_step

PURGE_USER = purge_step("agent")
"""Arguments: `user_id`."""
