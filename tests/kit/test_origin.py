"""Where a call comes from: nobody can say that it is from elsewhere."""

from typing import Any

import pytest

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1 import file_service_pb2_grpc as pb2_grpc
from services.kit.origin import MAX_USER_AGENT, Origin, address_of, origin_of
from tests.kit.conftest import FILE_ID, Start
from tests.support import Metadata

PEER = "ipv4:192.0.2.1:4242"


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:1.2.3.4:5", "1.2.3.4"),
        ("ipv6:%5B::1%5D:5", "::1"),
        ("ipv6:[2001:db8::1]:443", "2001:db8::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5", "fe80::1"),
        ("ipv6:%5B::ffff:1.2.3.4%5D:5", "1.2.3.4"),
        ("unix:", ""),
        ("unix:/run/parley.sock", ""),
        ("ipv4:nonsense", ""),
        ("", ""),
    ],
)
def test_the_address_of_a_peer_is_found(peer: str, address: str) -> None:
    assert address_of(peer) == address


@pytest.mark.parametrize(
    ("trusted", "forwarded", "address"),
    [
        (0, ["203.0.113.9"], "192.0.2.1"),
        (1, [], "192.0.2.1"),
        (1, ["203.0.113.9"], "203.0.113.9"),
        (1, ["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
        (1, ["6.6.6.6", "203.0.113.9"], "203.0.113.9"),
        (2, ["6.6.6.6, 203.0.113.9, 10.0.0.1"], "203.0.113.9"),
        (2, ["6.6.6.6,203.0.113.9", "10.0.0.1"], "203.0.113.9"),
        (2, ["203.0.113.9"], "203.0.113.9"),
        (1, ["203.0.113.9:8080"], "203.0.113.9"),
        (1, ["[2001:db8::9]:8080"], "2001:db8::9"),
        (1, ["2001:DB8:0::9"], "2001:db8::9"),
        (1, ["6.6.6.6, unknown"], "192.0.2.1"),
        (1, ["6.6.6.6,"], "192.0.2.1"),
        (1, [""], "192.0.2.1"),
    ],
)
def test_only_what_trusted_proxies_have_seen_is_believed(trusted: int, forwarded: list[str], address: str) -> None:
    metadata = [("x-forwarded-for", value) for value in forwarded]
    assert origin_of(PEER, metadata, trusted_proxies=trusted).address == address


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("grpc-go/1.60", "grpc-go/1.60"),
        ("a\x1b[31mb\nc", "a[31mbc"),
        ("x" * 1000, "x" * MAX_USER_AGENT),
        ("\n" * 400 + "x" * 400, "x" * MAX_USER_AGENT),
    ],
)
def test_a_user_agent_is_printable_and_not_too_long(given: str, taken: str) -> None:
    assert origin_of(PEER, [("user-agent", given)], trusted_proxies=0).user_agent == taken


@pytest.mark.parametrize(("trusted", "address"), [(0, "127.0.0.1"), (1, "203.0.113.9")])
async def test_a_servicer_sees_where_a_call_comes_from(
    start: Start, token: Metadata, trusted: int, address: str
) -> None:
    seen: list[Origin] = []

    async def see(_request: Any, call: Any) -> pb2.GetFileResponse:
        seen.append(call.origin)
        return pb2.GetFileResponse()

    channel = await start(GetFile=see, trusted_proxies=trusted)
    metadata = (*token, ("x-forwarded-for", "6.6.6.6, 203.0.113.9"))
    await pb2_grpc.FileServiceStub(channel).GetFile(pb2.GetFileRequest(id=FILE_ID), metadata=metadata, timeout=5)
    (origin,) = seen
    assert origin.address == address
    assert origin.user_agent.startswith("grpc-python-asyncio/")
