"""Who does what an administrator may do."""

from typing import NamedTuple
from uuid import UUID

from services.kit.origin import NOWHERE, Origin


class Actor(NamedTuple):
    """Somebody who is signed in, as the audit log names it."""

    actor_id: UUID | None
    session_id: UUID | None
    origin: Origin


OPERATOR = Actor(None, None, NOWHERE)
"""Who works on the machine itself, with the command line."""
