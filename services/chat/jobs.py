"""The background jobs of chat, by name."""

from services.kit.purge import purge_step

PURGE_USER = purge_step("chat")
"""Arguments: `user_id`."""
