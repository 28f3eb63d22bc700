"""What uploads may use."""

from dataclasses import dataclass
from datetime import timedelta

from services.file.errors import FileTooLarge
from services.file.models import Usage


@dataclass(frozen=True)
class UploadLimits:
    """What uploads may use."""

    max_file_bytes: int
    part_bytes: int
    memory_bytes: int
    """What all uploads of the process may have in memory together."""
    max_on_a_stream: int
    max_in_the_process: int
    max_for_a_user: int
    """Of those in the process."""
    idle_timeout: timedelta
    """How long a stream may be silent."""
    unfinished_kept: timedelta
    """How long an upload without a name is kept that makes no progress: its process may have died."""
    named_kept: timedelta
    """How long an upload with a name is kept that makes no progress."""
    quota: Usage
    """What one user may have in all."""

    def check_size(self, size_bytes: int) -> None:
        """Raises FileTooLarge."""
        if size_bytes > self.max_file_bytes:
            raise FileTooLarge(self.max_file_bytes)
