"""Where a call comes from, as far as the server can tell."""

from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple
from urllib.parse import unquote

MAX_USER_AGENT = 300


class Origin(NamedTuple):
    """The IP address and the `user-agent` of who calls."""

    address: str
    user_agent: str


NOWHERE = Origin("", "")
"""What is done from the command line or in the background."""


def origin_of(peer: str, metadata: Iterable[tuple[str, str | bytes]], *, trusted_proxies: int) -> Origin:
    """Where a call comes from, by the address of its connection (`peer`, as gRPC writes it) and its metadata.

    Each proxy appends to `x-forwarded-for` the address that it was called from; whoever calls the first may have
    written anything in front of that. So the entries are counted from the end, one for each proxy, and no further.
    """
    forwarded: list[str] = []
    user_agent = ""
    for key, value in metadata:
        if not isinstance(value, str):
            continue
        if key == "user-agent":
            user_agent = value
        elif key == "x-forwarded-for" and trusted_proxies:
            forwarded += value.split(",")
    address = None
    if forwarded and trusted_proxies:
        address = _normal(forwarded[max(0, len(forwarded) - trusted_proxies)])
    return Origin(address or address_of(peer), _printable(user_agent))


def address_of(peer: str) -> str:
    """The IP address in a peer such as `ipv4:127.0.0.1:41234` or `ipv6:%5B::1%5D:41234`; empty for a Unix socket."""
    scheme, _, rest = unquote(peer).partition(":")
    if scheme not in ("ipv4", "ipv6"):
        return ""
    return _normal(rest) or ""


def _normal(text: str) -> str | None:
    """An IP address as it is usually written, from one with or without a port; None if it is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])  # without the zone
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def _printable(text: str) -> str:
    if len(text) <= MAX_USER_AGENT and text.isprintable():
        return text
    return "".join(character for character in text if character.isprintable())[:MAX_USER_AGENT]
