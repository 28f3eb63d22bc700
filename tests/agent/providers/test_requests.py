"""What providers send of a prompt."""

import base64
from typing import Any

import pytest

from services.agent.providers import (
    AssistantTurn,
    Fault,
    Image,
    ProviderFailure,
    ToolOutcome,
    ToolSpec,
    ToolTurn,
    ToolUse,
    UserTurn,
)
from services.agent.providers.anthropic import DEFAULT_MAX_TOKENS
from services.agent.providers.openai import to_request
from tests.agent.providers.conftest import KEY, Open, pieces_of, prompt
from tests.agent.providers.server import ProviderServer

PICTURE = Image("image/png", b"\x89PNG and so on")
CONVERSATION = [
    UserTurn("And the weather?", (PICTURE,)),
    AssistantTurn("I look.", (ToolUse("a1", "look_up", {"city": "Bern"}), ToolUse("a2", "look_up", {"city": "Biel"}))),
    ToolTurn((ToolOutcome("a1", "Sunny"), ToolOutcome("a2", "No such city", is_error=True))),
]
SPEC = ToolSpec("look_up", "Looks up the weather.", {"type": "object", "properties": {"city": {"type": "string"}}})


@pytest.mark.parametrize("kind", ["anthropic"], indirect=True)
async def test_anthropic_is_sent_the_prompt_in_its_terms(server: ProviderServer, open_provider: Open) -> None:
    options = {"temperature": 0.5, "top_p": 1, "stop": ["END"], "something_else": {"stays": "here"}}
    asked = prompt(system="Be brief.", turns=CONVERSATION, tools=[SPEC], max_tokens=77, options=options)
    await pieces_of(await open_provider(), asked)
    (request,) = server.requests
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body == {
        "model": "some-model",
        "max_tokens": 77,
        "stream": True,
        "system": "Be brief.",
        "temperature": 0.5,
        "top_p": 1,
        "stop_sequences": ["END"],
        "tools": [{"name": SPEC.name, "description": SPEC.description, "input_schema": SPEC.input_schema}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {
                        "type": "image",
                        "source": {
                            "type": "base64",
                            "media_type": "image/png",
                            "data": base64.b64encode(PICTURE.data).decode(),
                        },
                    },
                    {"type": "text", "text": "And the weather?"},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "a1", "name": "look_up", "input": {"city": "Bern"}},
                    {"type": "tool_use", "id": "a2", "name": "look_up", "input": {"city": "Biel"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "a1", "content": "Sunny", "is_error": False},
                    {"type": "tool_result", "tool_use_id": "a2", "content": "No such city", "is_error": True},
                ],
            },
        ],
    }


@pytest.mark.parametrize("kind", ["anthropic"], indirect=True)
async def test_anthropic_is_sent_a_limit_and_no_empty_blocks(server: ProviderServer, open_provider: Open) -> None:
    turns = [UserTurn("Hi"), AssistantTurn(""), UserTurn("", (PICTURE,)), AssistantTurn(" "), UserTurn("Go on")]
    await pieces_of(await open_provider(), prompt(turns=turns))
    body = server.requests[0].body
    assert body["max_tokens"] == DEFAULT_MAX_TOKENS
    assert not {"system", "tools", "temperature", "stop_sequences"} & body.keys()
    blocks = [block for message in body["messages"] for block in message["content"]]
    assert [block["type"] for block in blocks] == ["text", "image", "text"]


@pytest.mark.parametrize("kind", ["openai"], indirect=True)
async def test_openai_is_sent_the_prompt_in_its_terms(server: ProviderServer, open_provider: Open) -> None:
    options = {"temperature": 0.5, "top_p": 1, "stop": ["END"], "something_else": {"stays": "here"}}
    asked = prompt(system="Be brief.", turns=CONVERSATION, tools=[SPEC], max_tokens=77, options=options)
    await pieces_of(await open_provider(), asked)
    (request,) = server.requests
    assert request.headers["authorization"] == f"Bearer {KEY}"
    data = base64.b64encode(PICTURE.data).decode()
    assert request.body == {
        "model": "some-model",
        "max_tokens": 77,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "top_p": 1,
        "stop": ["END"],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": SPEC.name,
                    "description": SPEC.description,
                    "parameters": SPEC.input_schema,
                },
            }
        ],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
                    {"type": "text", "text": "And the weather?"},
                ],
            },
            {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [
                    {
                        "id": "a1",
                        "type": "function",
                        "function": {"name": "look_up", "arguments": '{"city": "Bern"}'},
                    },
                    {
                        "id": "a2",
                        "type": "function",
                        "function": {"name": "look_up", "arguments": '{"city": "Biel"}'},
                    },
                ],
            },
            {"role": "tool", "tool_call_id": "a1", "content": "Sunny"},
            {"role": "tool", "tool_call_id": "a2", "content": "Error: No such city"},
        ],
    }


def test_openai_itself_is_sent_the_limit_by_its_new_name() -> None:
    assert to_request(prompt(max_tokens=5), "max_completion_tokens")["max_completion_tokens"] == 5


async def test_without_a_key_none_is_sent(server: ProviderServer, open_provider: Open) -> None:
    await pieces_of(await open_provider(api_key=None), prompt())
    assert not {"authorization", "x-api-key"} & server.requests[0].headers.keys()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": "warm"},
        {"temperature": True},
        {"temperature": float("nan")},
        {"top_p": [1]},
        {"stop": "END"},
        {"stop": ["END", 5]},
        {"stop": [""]},
    ],
)
async def test_options_of_the_wrong_type_are_refused(
    server: ProviderServer, open_provider: Open, options: dict[str, Any]
) -> None:
    with pytest.raises(ProviderFailure, match=next(iter(options))) as caught:
        await pieces_of(await open_provider(), prompt(options=options))
    assert caught.value.fault is Fault.REFUSED
    assert server.requests == []


async def test_options_that_are_null_are_not_there(server: ProviderServer, open_provider: Open) -> None:
    nothing = {"temperature": None, "top_p": None, "stop": None}
    await pieces_of(await open_provider(), prompt(options=nothing))
    assert not {"temperature", "top_p", "stop", "stop_sequences"} & server.requests[0].body.keys()
