"""How long a command goes on trying."""

import asyncio

import pytest

from services.cli.client.ending import Away, Failed
from services.cli.client.patience import Patience

AWAY = Away("nothing answers")


@pytest.fixture
def notes() -> list[str]:
    return []


async def fail(patience: Patience, times: int, *, contact: bool = False) -> None:
    for _ in range(times):
        if contact:
            patience.contact()
        await patience.wait_after(AWAY)


async def test_it_ends_after_its_time_and_says_once_that_it_has_begun(notes: list[str]) -> None:
    patience = Patience(notes.append, 0.5)
    begun = asyncio.get_running_loop().time()
    with pytest.raises(Away):
        await fail(patience, 100)
    assert 0.5 < asyncio.get_running_loop().time() - begun < 2
    assert notes == ["nothing answers; trying again"]


async def test_what_is_won_renews_it(notes: list[str]) -> None:
    patience = Patience(notes.append, 0.25)
    for _ in range(5):
        await patience.wait_after(AWAY)
        patience.renew()
    assert len(notes) == 5


async def test_contact_stops_the_clock_and_wins_nothing(notes: list[str]) -> None:
    patience = Patience(notes.append, 0.5)
    await patience.wait_after(AWAY)
    patience.contact()
    await asyncio.sleep(0.6)  # in contact, however long
    await patience.wait_after(AWAY)
    with pytest.raises(Away):
        await fail(patience, 10, contact=True)
    assert len(notes) == 1


async def test_a_wait_that_is_asked_for_is_kept_or_it_ends_at_once(notes: list[str]) -> None:
    patience = Patience(notes.append, 2.0)
    begun = asyncio.get_running_loop().time()
    await patience.wait_after(Failed("busy", retry_after=0.4))
    assert asyncio.get_running_loop().time() - begun >= 0.4
    with pytest.raises(Failed):
        await patience.wait_after(Failed("busy", retry_after=60.0))
    assert asyncio.get_running_loop().time() - begun < 2
