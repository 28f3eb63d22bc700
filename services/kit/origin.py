"""Where a call comes from, as far as the server can tell."""

from typing import NamedTuple


class Origin(NamedTuple):
    """The IP address and the `user-agent` of who calls."""

    address: str
    user_agent: str


NOWHERE = Origin("", "")
"""What is done from the command line or in the background."""
