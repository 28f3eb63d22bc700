"""The background jobs of auth, by name."""

from services.kit.jobs import JobName

SEND_WELCOME_EMAIL = JobName("auth.send_welcome_email")
"""Arguments: `user_id`."""

DELETE_EXPIRED_SESSIONS = JobName("auth.delete_expired_sessions")
"""Periodic."""
