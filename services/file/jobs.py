"""The background jobs of files, by name. All are periodic."""

from services.kit.jobs import JobName

REMOVE_UNFINISHED_UPLOADS = JobName("file.remove_unfinished_uploads")

REMOVE_DELETED_FILES = JobName("file.remove_deleted_files")
