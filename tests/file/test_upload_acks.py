"""UploadFiles with uploads that have a name: how far they are is told, and they go on after a rejection or a cut."""

from collections.abc import Iterable
from typing import Any
from uuid import uuid4

import grpc
import pytest

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from tests.file.resuming import cancel, create, get, go_on, until_kept
from tests.file.steps import (
    DEADLINE,
    PART,
    Metadata,
    chunk,
    chunks,
    download,
    finish,
    keyed,
    resume,
    some_bytes,
    start,
    whole,
)
from tests.support import reason_of

DATA = some_bytes(3 * PART + 1000)


class Batch:
    """An UploadFiles stream that a test goes on with as it likes."""

    def __init__(self, files: FileServiceStub, metadata: Metadata) -> None:
        self.call: Any = files.UploadFiles(metadata=metadata, timeout=DEADLINE)

    async def send(self, key: str, requests: Iterable[pb2.UploadFileRequest]) -> None:
        for request in requests:
            await self.call.write(keyed(key, request))

    async def read(self, outcome: str) -> Any:
        """The next answer, which must be of this kind."""
        answer = await self.call.read()
        assert answer is not grpc.aio.EOF, "the stream has ended"
        assert answer.WhichOneof("outcome") == outcome, answer
        return getattr(answer, outcome)

    async def acks_until(self, size: int) -> list[int]:
        """What is acknowledged until so many bytes are."""
        acked = [(await self.read("ack")).persisted_size]
        while acked[-1] < size:
            acked.append((await self.read("ack")).persisted_size)
        return acked

    async def rest(self) -> list[tuple[str, str, str]]:
        """Half-close; the answers that are left: key, kind, reason."""
        await self.call.done_writing()
        answers: list[Any] = []
        while (answer := await self.call.read()) is not grpc.aio.EOF:
            answers.append(answer)
        return [
            (a.key, str(a.WhichOneof("outcome")), reason_of(a.rejected) if a.HasField("rejected") else "")
            for a in answers
        ]


@pytest.fixture
def batch(files: FileServiceStub, as_user: Any) -> Batch:
    return Batch(files, as_user("ann"))


async def test_what_is_kept_of_a_named_upload_is_acknowledged_from_its_beginning_on(
    files: FileServiceStub, as_user: Any, batch: Batch
) -> None:
    await batch.send("a", [start(request_id=str(uuid4()))])
    first = await batch.read("ack")
    assert first.persisted_size == 0
    assert (await get(files, as_user("ann"), first.upload_id)).state == pb2.UPLOAD_STATE_OPEN
    await batch.send("a", chunks(DATA[:PART]))
    acked = await batch.acks_until(PART)
    await batch.send("a", chunks(DATA[: 3 * PART], behind=PART))
    acked += await batch.acks_until(3 * PART)
    assert acked == sorted(set(acked)), "each tells of more"
    assert (await get(files, as_user("ann"), first.upload_id)).persisted_size == 3 * PART
    await batch.send("a", [*chunks(DATA, behind=3 * PART), finish()])
    stored = await batch.read("completed")
    assert await batch.rest() == [], "nothing is told after the outcome"
    assert (await download(files, as_user("ann"), stored.id))[1] == DATA


async def test_only_uploads_with_a_name_are_acknowledged(files: FileServiceStub, as_user: Any, batch: Batch) -> None:
    made = await create(files, as_user("ann"))
    await batch.send("named", [resume(made.id), *chunks(DATA[: 2 * PART])])
    await batch.send("nameless", whole(DATA)[:-1])
    await batch.send("nameless", [finish()])
    while (answer := await batch.call.read()).HasField("ack"):
        assert answer.key == "named"
    assert (answer.key, answer.WhichOneof("outcome")) == ("nameless", "completed")
    assert await batch.rest() == [("named", "rejected", "UPLOAD_INCOMPLETE")]


async def test_a_resumed_upload_is_acknowledged_with_what_is_kept(
    files: FileServiceStub, as_user: Any, batch: Batch
) -> None:
    ann = as_user("ann")
    request_id = str(uuid4())
    before = Batch(files, ann)
    await before.send("x", [start(request_id=request_id), *chunks(DATA[: PART + 5])])
    assert (await before.rest())[-1] == ("x", "rejected", "UPLOAD_INCOMPLETE")
    await batch.send("y", [start(request_id=request_id)])
    ack = await batch.read("ack")
    assert ack.persisted_size == PART + 5
    await batch.send("y", [*chunks(DATA, behind=PART + 5), finish()])
    while (answer := await batch.call.read()).HasField("ack"):
        assert answer.ack.persisted_size > PART
    assert (await download(files, ann, answer.completed.id))[1] == DATA
    again = Batch(files, ann)
    await again.send("z", [resume(ack.upload_id), finish()])
    assert [kind for _, kind, _ in await again.rest()][-1] == "completed"


async def test_an_upload_that_is_not_finished_is_rejected_with_what_is_kept(
    files: FileServiceStub, as_user: Any, batch: Batch
) -> None:
    made = await create(files, as_user("ann"))
    await batch.send("a", [resume(made.id), *chunks(DATA[: PART + 5])])
    await batch.call.done_writing()
    answers = [answer async for answer in batch.call]
    assert reason_of(answers[-1].rejected) == "UPLOAD_INCOMPLETE"
    assert str(PART + 5) in str(answers[-1].rejected)
    assert all(answer.HasField("ack") for answer in answers[:-1])
    assert (await get(files, as_user("ann"), made.id)).persisted_size == PART + 5


async def test_a_rejected_upload_with_a_name_can_go_on_upon_the_same_stream(
    files: FileServiceStub, as_user: Any, batch: Batch
) -> None:
    made = await create(files, as_user("ann"))
    await batch.send("a", [resume(made.id), *chunks(DATA[:PART]), chunk(PART, b"x", crc32c=1), chunk(PART, b"y")])
    while (answer := await batch.call.read()).HasField("ack"):
        pass
    assert reason_of(answer.rejected) == "CHUNK_CORRUPT"
    await batch.send("a", [resume(made.id)])
    assert (await batch.read("ack")).persisted_size == PART
    await batch.send("a", [*chunks(DATA, behind=PART), finish()])
    assert [kind for _, kind, _ in await batch.rest()][-1] == "completed"
    assert (await get(files, as_user("ann"), made.id)).state == pb2.UPLOAD_STATE_STORED


async def test_a_cut_stream_leaves_uploads_with_a_name_to_be_resumed(
    files: FileServiceStub, as_user: Any, batch: Batch
) -> None:
    ann, made = as_user("ann"), [await create(files, as_user("ann"), f"{n}") for n in range(3)]
    for n, one in enumerate(made):
        await batch.send(str(n), [resume(one.id), *chunks(DATA[: 2 * PART])])
    for one in made:
        await until_kept(files, ann, one.id, 2 * PART)
    batch.call.cancel()
    for one in made:
        stored = await go_on(files, ann, one.id, chunks(DATA, behind=2 * PART))
        assert (await download(files, ann, stored.id))[1] == DATA


async def test_what_is_wrong_with_one_named_upload_is_told_and_the_others_go_on(
    files: FileServiceStub, as_user: Any, batch: Batch
) -> None:
    ann, request_id = as_user("ann"), str(uuid4())
    cancelled = await create(files, ann)
    await cancel(files, ann, cancelled.id)
    await create(files, ann, request_id=request_id)
    theirs = await create(files, as_user("bob"))
    await batch.send("cancelled", [resume(cancelled.id), *chunks(DATA), finish()])
    await batch.send("theirs", [resume(theirs.id), *chunks(DATA), finish()])
    await batch.send("reused", [start("another", request_id=request_id), *chunks(DATA), finish()])
    await batch.send("second", [resume((await create(files, ann)).id), resume(cancelled.id), finish()])
    await batch.send("good", whole(DATA))
    rest = await batch.rest()
    assert [answer for answer in rest if answer[1] != "ack"] == [
        ("cancelled", "rejected", "UPLOAD_NOT_FOUND"),
        ("theirs", "rejected", "UPLOAD_NOT_FOUND"),
        ("reused", "rejected", "REQUEST_ID_REUSED"),
        ("second", "rejected", "UPLOAD_OUT_OF_TURN"),
        ("good", "completed", ""),
    ]
    assert {key for key, kind, _ in rest if kind == "ack"} <= {"second"}


async def test_an_upload_under_two_keys_is_the_newers(files: FileServiceStub, as_user: Any, batch: Batch) -> None:
    made = await create(files, as_user("ann"))
    await batch.send("old", [resume(made.id), *chunks(DATA[:PART])])
    await batch.acks_until(PART)
    await batch.send("new", [resume(made.id)])
    await batch.send("old", chunks(DATA, behind=PART))
    await batch.send("new", [*chunks(DATA, behind=PART), finish()])
    assert [answer for answer in await batch.rest() if answer[1] != "ack"] == [
        ("old", "rejected", "UPLOAD_TAKEN_OVER"),
        ("new", "completed", ""),
    ]


async def test_a_client_that_does_not_read_its_acknowledgements_is_not_forgotten(
    files: FileServiceStub, as_user: Any, batch: Batch
) -> None:
    """All is written before anything is read: what is told of one upload meanwhile comes together."""
    made = [await create(files, as_user("ann"), f"{n}") for n in range(8)]
    for n, one in enumerate(made):
        await batch.send(str(n), [resume(one.id), *chunks(DATA, 4000), finish()])
    rest = await batch.rest()
    assert sorted(key for key, kind, _ in rest if kind == "completed") == [str(n) for n in range(8)]
    done: set[str] = set()
    for key, kind, _ in rest:
        assert key not in done, "an upload was acknowledged after its outcome"
        if kind != "ack":
            done.add(key)
