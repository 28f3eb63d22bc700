"""The built-in provider says again what was said, at its pace."""

import asyncio
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agent.providers import (
    AssistantTurn,
    Fault,
    Image,
    Piece,
    ProviderFailure,
    Stopped,
    StopReason,
    Text,
    ToolOutcome,
    ToolTurn,
    ToolUse,
    Usage,
    UserTurn,
)
from services.agent.providers.echo import Echo
from tests.agent.providers.conftest import pieces_of, prompt, text_of


def deltas_of(pieces: list[Piece]) -> list[str]:
    return [piece.text for piece in pieces if isinstance(piece, Text)]


async def test_it_says_the_last_thing_the_user_has_said_word_by_word() -> None:
    turns = [UserTurn("First"), AssistantTurn("Yes?"), UserTurn("Say  that,\nplease "), AssistantTurn("Fine")]
    pieces = await pieces_of(Echo(0), prompt(turns=turns, system="You are an echo."))
    assert deltas_of(pieces) == ["Say  ", "that,\n", "please "]
    assert pieces[-2:] == [Usage(input_tokens=10, output_tokens=3), Stopped(StopReason.END)]


async def test_outcomes_of_tools_are_words_of_the_prompt_and_not_what_it_says() -> None:
    use = ToolUse("1", "look", {})
    turns = [UserTurn("Look"), AssistantTurn("", (use,)), ToolTurn((ToolOutcome("1", "a very long text"),))]
    assert await pieces_of(Echo(0), prompt(turns=turns)) == [Text("Look"), Usage(5, 1), Stopped(StopReason.END)]


@given(st.text(alphabet=st.sampled_from("a \n\u3000é🐦") | st.characters(codec="utf-8")))
async def test_any_text_comes_back_as_it_was(text: str) -> None:
    pieces = await pieces_of(Echo(0), prompt(text))
    assert text_of(pieces) == text
    assert all(deltas_of(pieces))


@pytest.mark.parametrize("text", ["x" * 100_000, " " * 100_000])
async def test_what_is_long_is_cut(text: str) -> None:
    deltas = deltas_of(await pieces_of(Echo(0), prompt(text)))
    assert "".join(deltas) == text
    assert len(deltas) == 2500


@pytest.mark.parametrize(
    ("limit", "said", "reason"),
    [
        (0, "", StopReason.MAX_TOKENS),
        (2, "one two ", StopReason.MAX_TOKENS),
        (3, "one two three", StopReason.END),
        (4, "one two three", StopReason.END),
        (None, "one two three", StopReason.END),
    ],
)
async def test_a_token_is_a_delta_and_the_limit_is_kept(limit: int | None, said: str, reason: StopReason) -> None:
    pieces = await pieces_of(Echo(0), prompt("one two three", max_tokens=limit))
    assert text_of(pieces) == said
    assert pieces[-2:] == [Usage(3, len(said.split())), Stopped(reason)]


async def test_an_agent_may_have_it_repeated() -> None:
    pieces = await pieces_of(Echo(0), prompt("ab cd", options={"echo": {"repeat": 3}}))
    assert text_of(pieces) == "ab cd ab cd ab cd"
    assert pieces[-2] == Usage(2, 6)


async def test_repeating_costs_no_memory() -> None:
    text = "some words " * 1000
    tracemalloc.start()
    try:
        async with Echo(0).answer(prompt(text, options={"echo": {"repeat": 100_000}})) as pieces:
            for _ in range(3000):
                await anext(pieces)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


async def test_deltas_come_at_their_pace() -> None:
    begun = time.monotonic()
    async with Echo(0.15).answer(prompt("one two three")) as pieces:
        await anext(pieces)
        assert time.monotonic() - begun < 0.15
        async for _ in pieces:
            pass
    assert time.monotonic() - begun >= 0.3


async def test_an_agent_may_have_another_pace() -> None:
    begun = time.monotonic()
    await pieces_of(Echo(5), prompt("one two three", options={"echo": {"delay_ms": 10}}))
    assert 0.02 <= time.monotonic() - begun < 5


async def test_what_a_slow_reader_missed_comes_at_once() -> None:
    async with Echo(0.05).answer(prompt("word " * 12)) as pieces:
        await anext(pieces)
        await asyncio.sleep(0.6)
        begun = time.monotonic()
        async for _ in pieces:
            pass
    assert time.monotonic() - begun < 0.4  # and not the 0.55 that they would take from now on


async def test_others_get_their_turn_while_it_is_in_a_hurry() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    await pieces_of(Echo(0), prompt("word " * 10_000))
    counting.cancel()
    assert turns >= 190


@pytest.mark.parametrize(
    "options",
    [
        {"echo": 5},
        {"echo": {"delay_ms": "20"}},
        {"echo": {"delay_ms": True}},
        {"echo": {"delay_ms": 0.5}},
        {"echo": {"delay_ms": -1}},
        {"echo": {"delay_ms": 10_001}},
        {"echo": {"repeat": 0}},
        {"echo": {"repeat": 100_001}},
        {"echo": {"repeat": [3]}},
    ],
)
async def test_options_of_the_wrong_type_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ProviderFailure) as caught:
        await pieces_of(Echo(0), prompt(options=options))
    assert caught.value.fault is Fault.REFUSED


async def test_what_it_does_not_know_is_left_alone() -> None:
    options = {"echo": {"repeat": None, "volume": 11}, "temperature": "warm"}
    assert text_of(await pieces_of(Echo(0), prompt("Hi", options=options))) == "Hi"


async def test_it_takes_no_images() -> None:
    assert not Echo(0).takes_images
    with pytest.raises(ProviderFailure) as caught:
        await pieces_of(Echo(0), prompt(turns=[UserTurn("Look", (Image("image/png", b""),))]))
    assert caught.value.fault is Fault.REFUSED
