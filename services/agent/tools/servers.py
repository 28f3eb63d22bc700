"""How the operator names MCP servers: `name=url`, with commas between."""

import re
from urllib.parse import urlsplit

_NAME = re.compile(r"[a-z0-9_-]{1,32}")


def parse_servers(written: str) -> dict[str, str]:
    """URLs by name. Raises ValueError, whose text repeats no URL: there may be a key in it."""
    servers: dict[str, str] = {}
    for part in written.split(",") if written.strip() else ():
        name, equals, url = part.strip().partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise ValueError(
                "must be name=url, or several with commas between; a name has 1 to 32 of a-z, 0-9, _ and -"
            )
        if not _is_http(url):
            raise ValueError(f"the URL of {name} must be one such as http://host:8000/mcp or https://host/mcp")
        if name in servers:
            raise ValueError(f"{name} is there twice")
        servers[name] = url
    return servers


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and " " not in url
    except ValueError:
        return False
