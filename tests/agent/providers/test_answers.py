"""What providers make of a model's answer."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from services.agent.providers import Fault, ProviderFailure, Stopped, StopReason, Text, ToolUse, Usage
from tests.agent.providers.conftest import Open, pieces_of, prompt, text_of
from tests.agent.providers.script import Beat, Call, End, Raw, Say, Stop, Used, Wait, calling, saying
from tests.agent.providers.server import ProviderServer

LOOK_UP = {"city": "Zürich", "days": [1, 2], "exact": True, "unit": None}


def chunk(delta: Mapping[str, Any], reason: str | None = None) -> Raw:
    """A chunk of OpenAI's with the least there can be in it."""
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return Raw(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())


async def test_text_comes_as_it_is_said(server: ProviderServer, open_provider: Open) -> None:
    server.will(Used(12, 3), Say(["Grüezi", " mit", "\n\nenand"]), Beat(), Wait(0.3), Say(["!"]), Stop())
    provider = await open_provider()
    async with provider.answer(prompt()) as pieces:
        begun = [await anext(pieces) for _ in range(3)]
        assert not server.requests[0].ended.is_set()
        rest = [piece async for piece in pieces]
    assert text_of([*begun, *rest]) == "Grüezi mit\n\nenand!"
    assert rest[-2:] == [Usage(12, 3), Stopped(StopReason.END)]
    assert all(piece.text for piece in [*begun, *rest] if isinstance(piece, Text))


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end", StopReason.END),
        ("max_tokens", StopReason.MAX_TOKENS),
        ("refusal", StopReason.REFUSAL),
        ("a_new_word", StopReason.END),
    ],
)
async def test_why_a_model_stops_is_told(
    server: ProviderServer, open_provider: Open, reason: str, expected: StopReason
) -> None:
    server.will(Say(["Well"]), Stop(reason))
    assert (await pieces_of(await open_provider(), prompt()))[-1] == Stopped(expected)


async def test_tools_are_given_whole(server: ProviderServer, open_provider: Open) -> None:
    server.will(
        Used(1, 2), Say(["I look"]), Call.of("look_up", LOOK_UP), Call("now", [""], id="call_2"), Stop("tool_use")
    )
    pieces = await pieces_of(await open_provider(), prompt())
    assert text_of(pieces) == "I look"
    assert pieces[-4:] == [
        ToolUse("call_1", "look_up", LOOK_UP),
        ToolUse("call_2", "now", {}),
        Usage(1, 2),
        Stopped(StopReason.TOOL_USE),
    ]


@pytest.mark.parametrize("fragments", [['{"city": '], ["[1]"], ["null"], ['{"n": NaN}'], ['{"a":' * 100_000]])
async def test_arguments_that_are_no_json_object_are_garbled(
    server: ProviderServer, open_provider: Open, fragments: list[str]
) -> None:
    server.will(*calling(Call("look_up", fragments)))
    with pytest.raises(ProviderFailure) as caught:
        await pieces_of(await open_provider(), prompt())
    assert caught.value.fault is Fault.GARBLED


async def test_a_call_that_the_limit_cut_off_is_no_fault(server: ProviderServer, open_provider: Open) -> None:
    server.will(Say(["So"]), Call("look_up", ['{"ci']), Stop("max_tokens"))
    pieces = await pieces_of(await open_provider(), prompt())
    assert not any(isinstance(piece, ToolUse) for piece in pieces)
    assert pieces[-1] == Stopped(StopReason.MAX_TOKENS)


async def test_a_server_that_sends_no_usage_is_tolerated(server: ProviderServer, open_provider: Open) -> None:
    server.will(Say(["Hello"]), Stop())
    pieces = await pieces_of(await open_provider(), prompt())
    assert text_of(pieces) == "Hello"
    assert Usage(0, 0) in pieces or not any(isinstance(piece, Usage) for piece in pieces)


@pytest.mark.parametrize("kind", ["openai"], indirect=True)
@pytest.mark.parametrize("indexed", [True, False])
async def test_calls_without_id_or_index_are_tolerated(
    server: ProviderServer, open_provider: Open, indexed: bool
) -> None:
    server.will(
        Call("look_up", ['{"a"', ": 1}"], id=None, indexed=indexed),
        Call("now", ["{}"], id=None, indexed=indexed),
        Stop("tool_use"),
    )
    uses = [p for p in await pieces_of(await open_provider(), prompt()) if isinstance(p, ToolUse)]
    assert [(use.name, use.arguments) for use in uses] == [("look_up", {"a": 1}), ("now", {})]
    assert uses[0].id
    assert uses[0].id != uses[1].id


@pytest.mark.parametrize("kind", ["openai"], indirect=True)
async def test_a_server_may_say_stop_where_it_wants_tools_and_never_say_done(
    server: ProviderServer, open_provider: Open
) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    server.will(chunk({"tool_calls": [call]}), chunk({}, "stop"), End())
    assert await pieces_of(await open_provider(), prompt()) == [
        ToolUse("c", "now", {}),
        Stopped(StopReason.TOOL_USE),
    ]


@pytest.mark.parametrize("kind", ["openai"], indirect=True)
async def test_a_refusal_in_words_is_text(server: ProviderServer, open_provider: Open) -> None:
    server.will(chunk({"refusal": "I would rather not."}), Stop())
    assert await pieces_of(await open_provider(), prompt()) == [
        Text("I would rather not."),
        Stopped(StopReason.REFUSAL),
    ]


@pytest.mark.parametrize("kind", ["anthropic"], indirect=True)
async def test_cached_input_is_input(server: ProviderServer, open_provider: Open) -> None:
    usage = {"input_tokens": 1, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 100, "output_tokens": 1}
    start = {"type": "message_start", "message": {"role": "assistant", "content": [], "usage": usage}}
    server.will(Raw(f"event: message_start\ndata: {json.dumps(start)}\n\n".encode()), Stop())
    assert await pieces_of(await open_provider(), prompt()) == [Usage(111, 1), Stopped(StopReason.END)]


async def test_connections_are_used_again(server: ProviderServer, open_provider: Open) -> None:
    provider = await open_provider()
    for _ in range(3):
        server.will(*saying("Hello"))
        await pieces_of(provider, prompt())
    assert {request.connection for request in server.requests} == {1}
