"""What is remembered of who may read a file, for how long, and who waits for whom."""

import asyncio
from uuid import UUID, uuid4

import pytest

from services.file.domain import readers as domain
from services.file.domain.readers import NO_SECONDS, YES_SECONDS, Readers
from services.kit.errors import DependencyUnavailable


class Others:
    """Those who are asked, and a clock."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer: bool | Exception = True
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.now = 1000.0

    async def may_read(self, user_id: UUID, file_id: UUID) -> bool:  # noqa: ARG002  # all are answered alike
        self.asked += 1
        await self.may_answer.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def others() -> Others:
    return Others()


@pytest.fixture
def readers(others: Others) -> Readers:
    return Readers(others, clock=lambda: others.now)


USER, FILE = uuid4(), uuid4()


@pytest.mark.parametrize(("answer", "seconds"), [(True, YES_SECONDS), (False, NO_SECONDS)])
async def test_an_answer_is_good_for_seconds(others: Others, readers: Readers, answer: bool, seconds: float) -> None:
    others.answer = answer
    assert await readers.may_read(USER, FILE) is answer
    others.answer = not answer
    others.now += seconds - 0.1
    assert await readers.may_read(USER, FILE) is answer
    assert others.asked == 1
    others.now += 0.2
    assert await readers.may_read(USER, FILE) is not answer


async def test_an_answer_is_good_for_its_own_user_and_file(others: Others, readers: Readers) -> None:
    await readers.may_read(USER, FILE)
    others.answer = False
    assert not await readers.may_read(uuid4(), FILE)
    assert not await readers.may_read(USER, uuid4())


async def test_a_failure_is_told_to_all_who_wait_and_not_kept(others: Others, readers: Readers) -> None:
    others.answer = DependencyUnavailable()
    told = await asyncio.gather(*(readers.may_read(USER, FILE) for _ in range(3)), return_exceptions=True)
    assert [type(failure) for failure in told] == [DependencyUnavailable] * 3
    assert others.asked == 1
    others.answer = True
    assert await readers.may_read(USER, FILE)


async def test_who_came_first_and_leaves_takes_the_answer_from_nobody(others: Others, readers: Readers) -> None:
    others.may_answer.clear()
    first, second = (asyncio.create_task(readers.may_read(USER, FILE)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait((first,))
    others.may_answer.set()
    assert await second
    assert others.asked == 1


async def test_what_was_used_longest_ago_is_forgotten_when_there_is_no_space(
    others: Others, readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain, "MOST", 2)
    files = [uuid4() for _ in range(3)]
    for file_id in (files[0], files[1], files[0], files[2]):
        await readers.may_read(USER, file_id)
    assert others.asked == 3
    await readers.may_read(USER, files[0])
    assert others.asked == 3
    await readers.may_read(USER, files[1])
    assert others.asked == 4


async def test_closing_leaves_no_question_open(others: Others, readers: Readers) -> None:
    others.may_answer.clear()
    waiting = asyncio.create_task(readers.may_read(USER, FILE))
    await asyncio.sleep(0)
    await readers.close()
    await asyncio.wait((waiting,))
    assert waiting.cancelled()
