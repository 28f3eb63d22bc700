"""What goes wrong at a provider: which fault it is, and what helps by itself."""

import asyncio
import socket
import time
from email.utils import formatdate
from typing import Any

import pytest

from services.agent.providers import Fault, Piece, Provider, ProviderFailure, Stopped, StopReason
from services.agent.providers.failures import LONGEST_WAIT, of_status
from services.kit.faults import describe_fault
from tests.agent.providers.conftest import KEY, Open, pieces_of, prompt, text_of
from tests.agent.providers.script import (
    Beat,
    Cut,
    End,
    Raw,
    Say,
    Script,
    Status,
    Step,
    Stop,
    StreamError,
    Wait,
    calling,
    saying,
)
from tests.agent.providers.server import ProviderServer

SOON = {"retry-after-ms": "1"}


async def failure_of(provider: Provider, said: list[Piece] | None = None) -> ProviderFailure:
    """The failure that the answer ends with, within the tests' patience. What came before is added to `said`."""
    try:
        async with asyncio.timeout(10), provider.answer(prompt()) as pieces:
            async for piece in pieces:
                if said is not None:
                    said.append(piece)
    except ProviderFailure as failure:
        return failure
    pytest.fail("the answer did not fail")


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (429, Fault.OVERLOADED),
        (529, Fault.OVERLOADED),
        (500, Fault.UNAVAILABLE),
        (503, Fault.UNAVAILABLE),
        (400, Fault.REFUSED),
        (401, Fault.REFUSED),
        (404, Fault.REFUSED),
        (413, Fault.REFUSED),
    ],
)
async def test_an_error_instead_of_a_stream_is_a_fault_by_its_status(
    server: ProviderServer, open_provider: Open, status: int, fault: Fault
) -> None:
    server.will(Status(status, "the message"))
    failure = await failure_of(await open_provider())
    assert failure.fault is fault
    assert "the message" in str(failure)


@pytest.mark.parametrize(
    "first", [Status(429, headers=SOON), Status(529, headers=SOON), Status(500, headers=SOON), Cut()]
)
async def test_what_may_pass_is_tried_again(server: ProviderServer, open_provider: Open, first: Step) -> None:
    server.will(first)
    server.will(*saying("Hello"))
    assert text_of(await pieces_of(await open_provider(retries=1), prompt())) == "Hello"
    assert len(server.requests) == 2
    assert server.requests[0].body == server.requests[1].body


async def test_tries_are_bounded(server: ProviderServer, open_provider: Open) -> None:
    server.otherwise = [Status(503, headers=SOON)]
    assert (await failure_of(await open_provider(retries=2))).fault is Fault.UNAVAILABLE
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "first",
    [
        Status(400),
        Status(401),
        Status(429, headers={"retry-after": str(LONGEST_WAIT + 1)}),
        Status(429, headers={"x-should-retry": "false"}),
    ],
)
async def test_what_does_not_pass_is_not_tried_again(server: ProviderServer, open_provider: Open, first: Step) -> None:
    server.will(first)
    await failure_of(await open_provider(retries=2))
    assert len(server.requests) == 1


async def test_the_providers_hint_when_to_come_again_is_heeded(server: ProviderServer, open_provider: Open) -> None:
    provider = await open_provider(retries=1)
    server.will(Status(429, headers={"retry-after": "1.2"}))  # more than the wait without a hint
    begun = time.monotonic()
    await pieces_of(provider, prompt())
    assert 1.2 <= time.monotonic() - begun < 3


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"retry-after": "7"}, 7),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "-7"}, 0),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": "nan"}, 0),
        ({"retry-after": formatdate(time.time() - 100, usegmt=True)}, 0),
    ],
)
def test_hints_are_seconds_milliseconds_or_a_date(headers: dict[str, str], seconds: float) -> None:
    assert of_status(429, "", headers).wait == seconds


def test_a_hint_that_is_a_date_is_the_time_until_then() -> None:
    date = formatdate(time.time() + 20, usegmt=True)
    assert 15 < of_status(429, "", {"retry-after": date}).wait <= 20


OVERLOADED = {"anthropic": "overloaded_error", "openai": "rate_limit_exceeded"}


async def test_an_overload_told_in_the_stream_is_tried_again_before_the_first_piece(
    server: ProviderServer, open_provider: Open, kind: str
) -> None:
    server.will(StreamError(OVERLOADED[kind]))
    server.will(*saying("Hello"))
    assert text_of(await pieces_of(await open_provider(retries=1), prompt())) == "Hello"


async def test_an_overload_told_in_the_stream_is_an_overload(
    server: ProviderServer, open_provider: Open, kind: str
) -> None:
    server.will(Say(["Hel"]), StreamError(OVERLOADED[kind], "too many"))
    failure = await failure_of(await open_provider(retries=2))
    assert failure.fault is Fault.OVERLOADED
    assert "too many" in str(failure)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        ("api_error", Fault.UNAVAILABLE),
        ("server_error", Fault.UNAVAILABLE),
        ("invalid_request_error", Fault.REFUSED),
    ],
)
async def test_other_errors_told_in_the_stream_are_faults_by_their_type(
    server: ProviderServer, open_provider: Open, error: str, fault: Fault
) -> None:
    server.will(Say(["Hel"]), StreamError(error))
    assert (await failure_of(await open_provider())).fault is fault


@pytest.mark.parametrize("kind", ["openai"], indirect=True)
async def test_an_error_in_the_stream_may_have_a_status_as_its_code(
    server: ProviderServer, open_provider: Open
) -> None:
    server.will(Say(["Hel"]), Raw(b'data: {"error": {"message": "no", "type": "NotFound", "code": 404}}\n\n'))
    assert (await failure_of(await open_provider())).fault is Fault.REFUSED


@pytest.mark.parametrize("script", [[Say(["Hel", "lo"]), Cut()], [Say(["Hello"]), End()]])
async def test_an_answer_that_breaks_off_is_interrupted_and_not_tried_again(
    server: ProviderServer, open_provider: Open, script: Script
) -> None:
    server.will(*script)
    said: list[Piece] = []
    assert (await failure_of(await open_provider(retries=2), said=said)).fault is Fault.INTERRUPTED
    assert text_of(said) == "Hello"
    assert len(server.requests) == 1


async def test_a_stream_that_breaks_off_before_its_first_piece_is_tried_again(
    server: ProviderServer, open_provider: Open
) -> None:
    server.will(Beat(), Cut())
    server.will(*saying("Hello"))
    assert text_of(await pieces_of(await open_provider(retries=1), prompt())) == "Hello"


@pytest.mark.parametrize("script", [[Wait()], [Beat(), Wait()], [Say(["Hel"]), Wait()]])
async def test_silence_is_a_fault_that_is_not_tried_again(
    server: ProviderServer, open_provider: Open, script: Script
) -> None:
    server.will(*script)
    failure = await failure_of(await open_provider(silence=0.3, retries=2))
    assert failure.fault is Fault.SILENT
    assert len(server.requests) == 1
    async with asyncio.timeout(5):
        await server.requests[0].left.wait()


async def test_signs_of_life_are_no_silence(server: ProviderServer, open_provider: Open) -> None:
    server.will(*[step for _ in range(8) for step in (Beat(), Wait(0.2))], *saying("Hello"))
    assert text_of(await pieces_of(await open_provider(silence=1.0), prompt())) == "Hello"


MALFORMED = {
    "anthropic": [
        b"event: content_block_delta\ndata: {not json\n\n",
        b"event: content_block_delta\ndata: [1, 2]\n\n",
        b'event: content_block_delta\ndata: {"type": "content_block_delta"}\n\n',
        b'event: x\ndata: {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": 5}}\n\n',
        b"event: content_block_delta\ndata: " + b"[" * 100_000 + b"\n\n",
        b"\xff\xfe\xfa\n\n",
    ],
    "openai": [
        b"data: {not json\n\n",
        b"data: [1, 2]\n\n",
        b'data: {"choices": [5]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"content": 5}}]}\n\n',
        b"data: " + b"[" * 100_000 + b"\n\n",
        b"\xff\xfe\xfa\n\n",
    ],
}


@pytest.mark.parametrize("which", range(6))
@pytest.mark.parametrize("before", [[], [Say(["Hel"])]])
async def test_what_is_not_of_the_protocol_is_garbled(
    server: ProviderServer, open_provider: Open, kind: str, which: int, before: Script
) -> None:
    server.will(*before, Raw(MALFORMED[kind][which]), Stop())
    failure = await failure_of(await open_provider(retries=2))
    assert failure.fault is Fault.GARBLED
    assert len(server.requests) == 1


async def test_another_kind_of_document_is_garbled(server: ProviderServer, open_provider: Open) -> None:
    server.will(Status(200, "I am no stream"))
    assert (await failure_of(await open_provider())).fault is Fault.GARBLED


async def test_an_address_where_nobody_listens_is_unavailable(open_provider: Open) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        failure = await failure_of(await open_provider(base_url=url))
    assert failure.fault is Fault.UNAVAILABLE


@pytest.mark.parametrize("script", [[Status(401, f"Incorrect key: {KEY}")], [StreamError("api_error", f"key={KEY}")]])
async def test_the_key_is_in_nothing_that_is_logged(
    server: ProviderServer, open_provider: Open, script: Script
) -> None:
    server.will(*script)
    provider = await open_provider()
    failure = await failure_of(provider)
    assert "[key]" in str(failure)
    assert KEY not in describe_fault(failure)
    assert KEY not in repr(provider)


async def test_a_failure_does_not_disturb_the_next_answer(server: ProviderServer, open_provider: Open) -> None:
    provider = await open_provider()
    scripts: list[Any] = [[Status(500)], [Say(["Hel"]), Cut()], [Raw(b"\xff\n\n")], calling()]
    for script in scripts:
        server.will(*script)
    for _ in scripts[:-1]:
        await failure_of(provider)
    assert (await pieces_of(provider, prompt()))[-1] == Stopped(StopReason.TOOL_USE)
