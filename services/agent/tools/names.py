"""How an agent names its tools: `server.tool`, or `server.*` for all of a server's."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

MAX_NAMES = 64
EVERY_TOOL = "*"

_NAME = re.compile(r"[a-z0-9_-]{1,32}\.([A-Za-z0-9_./-]{1,128}|\*)")


def tool_names(config: Mapping[str, Any]) -> Sequence[str]:
    """The tools that an agent's config names, in its order; none if it has no `tools`.

    Raises ValueError, whose text is for the agent's owner.
    """
    if "tools" not in config:
        return ()
    names = config["tools"]
    if not isinstance(names, list) or not 1 <= len(names) <= MAX_NAMES:
        raise ValueError(f"config.tools must be a list of 1 to {MAX_NAMES} names.")
    for position, name in enumerate(names):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"config.tools[{position}] must be of the form server.tool or server.*.")
        if name in names[:position]:
            raise ValueError(f"config.tools[{position}] repeats {name}.")
    return tuple(names)


def unknown_servers(names: Sequence[str], servers: Collection[str]) -> Sequence[str]:
    """The servers in these names that are not among those that there are, each once."""
    return tuple(dict.fromkeys(server for server, _ in map(split_name, names) if server not in servers))


def split_name(name: str) -> tuple[str, str]:
    """Server and tool of a name; the tool is `*` for all of the server's."""
    server, _, tool = name.partition(".")
    return server, tool
