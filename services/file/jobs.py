"""The background jobs of files, by name."""

from services.kit.jobs import JobName
from services.kit.purge import purge_step

REMOVE_UNFINISHED_UPLOADS = JobName("file.remove_unfinished_uploads")
"""Periodic."""

REMOVE_DELETED_FILES = JobName("file.remove_deleted_files")
"""Periodic."""

PURGE_USER = purge_step("file")
"""Arguments: `user_id`."""
