"""The built-in provider: it says again what the user has said. It needs no account, and always does the same."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from services.agent.providers import (
    AssistantTurn,
    Fault,
    Piece,
    Prompt,
    ProviderFailure,
    Stopped,
    StopReason,
    Text,
    Usage,
    UserTurn,
)
from services.agent.providers.options import section, whole_number

LONGEST_DELAY_MS = 10_000
MOST_REPEATS = 100_000
# A word with the white space behind it, or a part of either. Every text is a row of these.
_DELTA = re.compile(r"\S{1,40}\s{0,40}|\s{1,40}")
# So many deltas go out between two turns of the event loop, however late they are.
_IN_A_ROW = 50


class Echo:
    """Answers with the text of the user's last turn, a word a delta. A token is a delta.

    `pace` are the seconds from one delta to the next. An agent's config may say otherwise, in `echo`: `delay_ms` is
    another pace, and with `repeat` the text comes so many times, joined by spaces.
    """

    takes_images = False

    def __init__(self, pace: float) -> None:
        self._pace = pace

    @asynccontextmanager
    async def answer(self, prompt: Prompt) -> AsyncIterator[AsyncIterator[Piece]]:
        """As Provider has it."""
        async with aclosing(self._pieces(prompt)) as pieces:
            yield pieces

    async def _pieces(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        score = _read(prompt, self._pace)
        clock = asyncio.get_running_loop().time
        start, said, in_a_row, reason = clock(), 0, 0, StopReason.END
        for delta in score.deltas():
            if said == prompt.max_tokens:
                reason = StopReason.MAX_TOKENS
                break
            # Each has its time from the start on: a delay is made up for, instead of added to all that follow.
            wait = start + said * score.pace - clock()
            in_a_row += 1
            if wait > 0 or in_a_row > _IN_A_ROW:
                await asyncio.sleep(max(wait, 0))
                in_a_row = 0
            said += 1
            yield Text(delta)
        yield Usage(_words(prompt), said)
        yield Stopped(reason)


@dataclass(frozen=True, slots=True)
class _Score:
    """What is to be said, how often and how fast."""

    text: str
    repeats: int
    pace: float

    def deltas(self) -> Iterator[str]:
        """The deltas. However many they are, only one is there at a time."""
        spaced = f"{self.text} "
        for _ in range(self.repeats - 1):
            yield from (match.group() for match in _DELTA.finditer(spaced))
        yield from (match.group() for match in _DELTA.finditer(self.text))


def _read(prompt: Prompt, pace: float) -> _Score:
    turns = [turn for turn in prompt.turns if isinstance(turn, UserTurn)]
    if any(turn.images for turn in turns):
        raise ProviderFailure(Fault.REFUSED, "echo takes no images")
    options = section(prompt.options, "echo")
    delay_ms = whole_number(options, "delay_ms", 0, LONGEST_DELAY_MS)
    repeats = whole_number(options, "repeat", 1, MOST_REPEATS)
    return _Score(
        text=turns[-1].text if turns else "",
        repeats=1 if repeats is None else repeats,
        pace=pace if delay_ms is None else delay_ms / 1000,
    )


def _words(prompt: Prompt) -> int:
    texts = [prompt.system]
    for turn in prompt.turns:
        if isinstance(turn, UserTurn | AssistantTurn):
            texts.append(turn.text)
        else:
            texts += [outcome.text for outcome in turn.outcomes]
    return sum(len(text.split()) for text in texts)
