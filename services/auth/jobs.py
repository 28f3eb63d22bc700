"""The background jobs of auth, by name."""

from services.kit.jobs import JobName
from services.kit.purge import purge_step

SEND_WELCOME_EMAIL = JobName("auth.send_welcome_email")
"""Arguments: `user_id`."""

SEND_PASSWORD_RESET = JobName("auth.send_password_reset")
"""Arguments: `email`, an address as somebody typed it. The code is made when the job runs: jobs hold no secrets."""

SEND_EMAIL_VERIFICATION = JobName("auth.send_email_verification")
"""Arguments: `user_id`. The code is made when the job runs."""

SEND_PASSWORD_NOTICE = JobName("auth.send_password_notice")
"""Tells a user that its password was changed. Arguments: `user_id`, and `change_time` in ISO 8601."""

DELETE_EXPIRED = JobName("auth.delete_expired")
"""Periodic: removes what has had its time."""

PURGE_USER = purge_step("auth")
"""Arguments: `user_id`."""

PURGE_DUE_USERS = JobName("auth.purge_due_users")
"""Periodic."""
