"""However an upload is cut, repeated, contradicted and taken over: the file is exactly its bytes, or there is none."""

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.rpc import error_details_pb2
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.file.domain.sweep import Sweep
from services.file.store import open_parts
from services.kit.database import Database
from services.kit.ids import utc_now
from tests.file.conftest import ServeFiles
from tests.file.steps import (
    MIB,
    PART,
    Behind,
    Metadata,
    chunk,
    download,
    eventually,
    finish,
    keyed,
    list_ids,
    some_bytes,
    start,
)
from tests.support import detail, raises_status, reason_of, status_of

CALL_SECONDS = 120.0
LARGE_PART = 8 * MIB
LARGEST = 64 * MIB
MOST_CHUNKS = 100
DRAINED = 24 * MIB
"""So much is passed over in good time when a client sends it to an upload that is refused."""
SOON = timedelta(minutes=10)
"""After which bytes that nobody needs may be gone."""
LONG_AFTER = timedelta(days=8)
"""After which nobody goes on with an upload."""

INVALID_ARGUMENT, NOT_FOUND, ABORTED, OUT_OF_RANGE = 3, 5, 10, 11

UNNEEDED = """
SELECT count(*) FROM file.parts p JOIN file.uploads u ON u.id = p.upload_id
 WHERE p.dead_time IS NOT NULL OR u.state NOT IN ('OPEN', 'STORED')
"""
WRONG_USAGE = """
SELECT user_id FROM file.usage FULL JOIN (
    SELECT u.user_id, sum(p.bytes) AS bytes, count(*) AS files
      FROM file.uploads u,
           LATERAL (SELECT coalesce(sum(size_bytes), 0) AS bytes FROM file.parts
                     WHERE upload_id = u.id AND dead_time IS NULL) p
     WHERE u.state IN ('OPEN', 'STORED') GROUP BY u.user_id) AS truth USING (user_id)
 WHERE coalesce(usage.bytes, 0) <> coalesce(truth.bytes, 0) OR coalesce(usage.files, 0) <> coalesce(truth.files, 0)
"""


class Ending(StrEnum):
    """How a stretch of an upload ends, other than well."""

    CUT = "the client goes away"
    HALF_CLOSED = "the client ends without `finish`"
    HOLE = "a chunk comes whose offset is beyond what was sent"
    CONTRADICTED = "bytes that are kept come again, and are others"
    CORRUPT = "a chunk comes whose crc32c is another"
    TAKEN_OVER = "another stream takes the upload over"
    TAKEN_OVER_ANEW = "another stream takes the upload over, and has other bytes"


class Outcome(StrEnum):
    """How an upload ends."""

    STORED = "it is finished"
    MISMATCHED = "it is finished, but is not what its SHA-256 says"
    CANCELLED = "it is cancelled"
    CANCELLED_MEANWHILE = "it is cancelled while a stream sends to it"


@dataclass(frozen=True)
class Stretch:
    """One stream of an upload."""

    server: int
    by_batch: bool
    """Over UploadFiles, not UploadFile."""
    by_request_id: bool
    back: float
    """How much of what is kept is sent again at first."""
    forth: float
    """How much of what is left is sent."""
    again: float
    """How much of what was sent on this stream is sent again then."""
    chunk_bytes: int
    ending: Ending


@dataclass(frozen=True)
class Plan:
    """One upload."""

    size: int
    declares_size: bool
    stretches: list[Stretch]
    last: Stretch
    outcome: Outcome


def plans(part_bytes: int, most_bytes: int) -> st.SearchStrategy[Plan]:
    share = st.sampled_from([0.0, 0.3, 0.5, 1.0]) | st.floats(0, 1)
    stretch = st.builds(
        Stretch,
        server=st.integers(0, 1),
        by_batch=st.booleans(),
        by_request_id=st.booleans(),
        back=share,
        forth=share,
        again=share,
        chunk_bytes=st.sampled_from([PART // 2, PART, PART + 1, MIB]) | st.integers(1, 2 * MIB),
        ending=st.sampled_from(Ending),
    )
    near = st.builds(
        lambda parts, more: max(parts * part_bytes + more, 0),
        st.integers(0, min(6, most_bytes // part_bytes - 1)),
        st.integers(-1, 1),
    )
    return st.builds(
        Plan,
        size=st.integers(0, 3 * PART) | near | st.integers(0, most_bytes),
        declares_size=st.booleans(),
        stretches=st.lists(stretch, max_size=5),
        last=stretch,
        outcome=st.sampled_from([Outcome.STORED, Outcome.STORED, *Outcome]),
    )


BATCH = Stretch(
    server=0, by_batch=True, by_request_id=False, back=0, forth=0, again=0, chunk_bytes=MIB, ending=Ending.CUT
)


class Writer:
    """A stream that goes on with an upload. Only what it has in mind is here: whether that holds, the server says."""

    def __init__(self, files: FileServiceStub, metadata: Metadata, *, by_batch: bool) -> None:
        method: Any = files.UploadFiles if by_batch else files.UploadFile
        self._by_batch = by_batch
        self._call = method(metadata=metadata, timeout=CALL_SECONDS)

    async def send(self, *requests: pb2.UploadFileRequest) -> None:
        for request in requests:
            await self._call.write(keyed("a", request) if self._by_batch else request)

    async def has_begun(self) -> int:
        """How many bytes are kept; what is sent from here on comes after whatever others sent. Only by batch."""
        answer = await self._call.read()
        assert answer.WhichOneof("outcome") == "ack", answer
        return int(answer.ack.persisted_size)

    async def outcome(self) -> pb2.File | tuple[int, str, dict[str, str]]:
        """What the stream is answered with after its last message: the file, or the code, reason and metadata."""
        await self._call.done_writing()
        if not self._by_batch:
            try:
                response: pb2.UploadFileResponse = await self._call
            except grpc.aio.AioRpcError as error:
                return _told(status_of(error))
            return response.file
        outcomes = []
        while (answer := await self._call.read()) is not grpc.aio.EOF:
            if not answer.HasField("ack"):
                outcomes.append(answer)
        assert len(outcomes) == 1, outcomes
        answer = outcomes[0]
        return answer.completed if answer.HasField("completed") else _told(answer.rejected)

    def cut(self) -> None:
        self._call.cancel()


def _told(status: Any) -> tuple[int, str, dict[str, str]]:
    info = detail(status, error_details_pb2.ErrorInfo)
    assert info is not None
    return status.code, reason_of(status), dict(info.metadata)


class Trial:
    """One upload by a plan, over servers that share a database and a store."""

    def __init__(self, servers: list[FileServiceStub], metadata: Metadata, behind: Behind, plan: Plan) -> None:
        self._servers = servers
        self._behind = behind
        self._metadata = metadata
        self._plan = plan
        self._bytes = some_bytes(plan.size)
        self._highest = 0
        """So many bytes have been sent by anybody."""
        fields: dict[str, Any] = {"request_id": str(uuid4())}
        if plan.declares_size:
            fields["size_bytes"] = plan.size
        self._start = start("trial.bin", **fields)
        self._id = ""

    async def run(self) -> pb2.File | None:
        """Carry it out; the file that came of it."""
        request = pb2.CreateUploadRequest(start=self._start.start)
        self._id = (await self._servers[0].CreateUpload(request, metadata=self._metadata)).upload.id
        for stretch in self._plan.stretches:
            await self._go_on(stretch)
        last, outcome = self._plan.last, self._plan.outcome
        if outcome == Outcome.CANCELLED:
            await self._cancel(self._servers[last.server])
        elif outcome == Outcome.CANCELLED_MEANWHILE:
            await self._cancel_meanwhile(last)
        else:
            return await self._finish(last, is_right=outcome == Outcome.STORED)
        return None

    async def check(self, files: FileServiceStub, file: pb2.File) -> None:
        """It is exactly the bytes, and sending them again is compared with it."""
        sha256 = hashlib.sha256(self._bytes).digest()
        assert (file.size_bytes, file.sha256) == (self._plan.size, sha256)
        shown, received = await download(files, self._metadata, file.id)
        assert shown == file
        assert hashlib.sha256(received).digest() == sha256
        assert (await self._get(files)).file_id == file.id
        again = await self._open(files, self._plan.last)
        await self._send(again, 0, min(self._plan.size, MIB), MIB)
        await again.send(finish(sha256=sha256))
        assert await again.outcome() == file
        if 0 < self._plan.size <= MIB:
            await self._contradict(files, self._plan.last, self._plan.size)

    async def _go_on(self, stretch: Stretch) -> None:
        files = self._servers[stretch.server]
        kept = (await self._get(files)).persisted_size
        if stretch.ending == Ending.CONTRADICTED:
            if kept:
                await self._contradict(files, stretch, kept)
            return
        writer = await self._open(files, stretch)
        at = kept - int(kept * stretch.back)
        end = kept + int((self._plan.size - kept) * stretch.forth)
        await self._send(writer, at, end, stretch.chunk_bytes)
        await self._send(writer, end - int((end - at) * stretch.again), end, stretch.chunk_bytes)
        if stretch.ending == Ending.CUT:
            writer.cut()
        elif stretch.ending in (Ending.TAKEN_OVER, Ending.TAKEN_OVER_ANEW):
            await self._take_over(writer, end, stretch)
        else:
            await self._provoke(writer, end, stretch.ending)

    async def _provoke(self, writer: Writer, end: int, ending: Ending) -> None:
        if ending == Ending.HOLE:
            await writer.send(chunk(self._highest + 1, b"x"))
        elif ending == Ending.CORRUPT:
            await writer.send(chunk(end, b"x", crc32c=1))
        code, reason, metadata = await _failure(writer)
        kept = (await self._get(self._servers[0])).persisted_size
        assert end <= kept <= self._highest, "what was sent in order is kept, and nothing else"
        if ending == Ending.HOLE:
            assert (code, reason, metadata) == (OUT_OF_RANGE, "OFFSET_MISMATCH", {"expected_offset": str(kept)})
        elif ending == Ending.CORRUPT:
            assert (code, reason) == (INVALID_ARGUMENT, "CHUNK_CORRUPT")
        else:
            assert (code, reason, metadata) == (INVALID_ARGUMENT, "UPLOAD_INCOMPLETE", {"persisted_size": str(kept)})

    async def _contradict(self, files: FileServiceStub, stretch: Stretch, kept: int) -> None:
        writer = await self._open(files, stretch)
        wrong = bytearray(self._bytes[:kept])
        wrong[kept // 2 if kept < DRAINED else -1] ^= 1
        await self._send(writer, 0, kept, stretch.chunk_bytes, wrong)
        assert (await _failure(writer))[:2] == (INVALID_ARGUMENT, "CONTENT_MISMATCH")

    async def _take_over(self, writer: Writer, at: int, stretch: Stretch) -> None:
        other = await self._open(self._servers[1 - stretch.server if stretch.back < 0.5 else stretch.server], BATCH)
        kept = await other.has_begun()
        old = self._bytes
        if stretch.ending == Ending.TAKEN_OVER_ANEW:
            self._bytes = old[:kept] + some_bytes(self._plan.size - kept, seed=kept + 2)
        await self._send(other, kept, (kept + self._plan.size) // 2, stretch.chunk_bytes)
        if self._plan.size - at < DRAINED:
            await self._send(writer, at, self._plan.size, stretch.chunk_bytes, old)
            await writer.send(finish())
            assert (await _failure(writer))[:2] == (ABORTED, "UPLOAD_TAKEN_OVER")
        writer.cut()
        other.cut()

    async def _cancel(self, files: FileServiceStub) -> None:
        await files.CancelUpload(pb2.CancelUploadRequest(id=self._id), metadata=self._metadata)
        with raises_status(grpc.StatusCode.NOT_FOUND, "UPLOAD_NOT_FOUND"):
            await self._get(files)

    async def _cancel_meanwhile(self, last: Stretch) -> None:
        writer = await self._open(self._servers[last.server], BATCH)
        kept = await writer.has_begun()
        await self._cancel(self._servers[1 - last.server])
        if self._plan.size - kept < DRAINED:
            await self._send(writer, kept, self._plan.size, last.chunk_bytes)
            await writer.send(finish())
            assert (await _failure(writer))[:2] == (NOT_FOUND, "UPLOAD_NOT_FOUND")
        writer.cut()

    async def _finish(self, last: Stretch, *, is_right: bool) -> pb2.File | None:
        files = self._servers[last.server]
        kept = (await self._get(files)).persisted_size
        writer = await self._open(files, last)
        await self._send(writer, kept - int(kept * last.back), self._plan.size, last.chunk_bytes)
        sha256 = hashlib.sha256(self._bytes if is_right else self._bytes + b"more").digest()
        await writer.send(finish(size_bytes=self._plan.size, sha256=sha256))
        answer = await writer.outcome()
        if is_right:
            assert isinstance(answer, pb2.File), answer
            return answer
        assert not isinstance(answer, pb2.File)
        assert answer[:2] == (INVALID_ARGUMENT, "CHECKSUM_MISMATCH")
        return None

    async def _open(self, files: FileServiceStub, stretch: Stretch) -> Writer:
        claims = await self._claims()
        writer = Writer(files, self._metadata, by_batch=stretch.by_batch)
        resume = pb2.UploadFileRequest(resume=pb2.UploadResume(upload_id=self._id))
        await writer.send(self._start if stretch.by_request_id else resume)

        async def is_claimed() -> bool:
            return claims is None or await self._claims() != claims

        await eventually(is_claimed)  # So that streams come in this order, whatever the network does.
        return writer

    async def _claims(self) -> int | None:
        """How often the upload was claimed; None, which never changes, once it is over."""
        statement = f"SELECT epoch FROM file.uploads WHERE id = '{self._id}' AND state = 'OPEN'"
        found: int | None = (await self._behind.execute(statement)).scalar()
        return found

    async def _send(
        self, writer: Writer, begin: int, end: int, chunk_bytes: int, data: bytes | bytearray | None = None
    ) -> None:
        chunk_bytes = max(chunk_bytes, (end - begin) // MOST_CHUNKS)
        data = self._bytes if data is None else data
        for at in range(begin, end, chunk_bytes):
            await writer.send(chunk(at, bytes(data[at : min(at + chunk_bytes, end)])))
        self._highest = max(self._highest, end)

    async def _get(self, files: FileServiceStub) -> pb2.Upload:
        return (await files.GetUpload(pb2.GetUploadRequest(id=self._id), metadata=self._metadata)).upload


async def _failure(writer: Writer) -> tuple[int, str, dict[str, str]]:
    answer = await writer.outcome()
    assert not isinstance(answer, pb2.File), "it became a file"
    return answer


class Swept:
    """What is left after the worker has gone by."""

    def __init__(self, behind: Behind, database: Database) -> None:
        self.behind = behind
        self._database = database

    async def sweep(self, later: timedelta) -> None:
        async with open_parts(self.behind.kept.url, threads=2) as store:
            await Sweep(self._database, store, clock=lambda: utc_now() + later).remove_unfinished_uploads()

    async def is_tidy(self) -> bool:
        """Whether the store holds the parts that rows know and no other, and the usage is what there is."""
        await self.sweep(SOON)
        known = {row.key for row in await self.behind.execute("SELECT key FROM file.parts")}
        stored = {str(path.relative_to(self.behind.folder)) for path in self.behind.parts()}
        wrong = (await self.behind.execute(WRONG_USAGE)).all()
        unneeded = (await self.behind.execute(UNNEEDED)).scalar_one()
        return known == stored and not wrong and not unneeded


async def try_plan(servers: list[FileServiceStub], metadata: Metadata, swept: Swept, plan: Plan) -> None:
    trial = Trial(servers, metadata, swept.behind, plan)
    file = await trial.run()
    if file is not None:
        await trial.check(servers[1 - plan.last.server], file)
    shown = await list_ids(servers[0], metadata)
    assert shown == ([] if file is None else [file.id])
    await eventually(swept.is_tidy)
    await swept.sweep(LONG_AFTER)
    await swept.sweep(LONG_AFTER + SOON)
    assert await swept.is_tidy()
    limits = await servers[0].GetUploadLimits(pb2.GetUploadLimitsRequest(), metadata=metadata)
    assert (limits.used_bytes, limits.used_files) == ((0, 0) if file is None else (plan.size, 1))


@pytest.fixture
def swept(behind: Behind, database: Database) -> Swept:
    return Swept(behind, database)


@pytest.fixture
async def small_parts(serve_files: ServeFiles) -> list[FileServiceStub]:
    return [await serve_files() for _ in range(2)]


@pytest.fixture
async def usual_parts(serve_files: ServeFiles) -> list[FileServiceStub]:
    return [await serve_files(file_part_bytes=LARGE_PART, file_max_bytes=LARGEST) for _ in range(2)]


# The same plans every time, and none made smaller, which would take minutes. Each has a user of its own, and leaves
# what it stored: the fixtures last over all of them.
STEADY: dict[str, Any] = {
    "derandomize": True,
    "database": None,
    "deadline": None,
    "phases": [Phase.explicit, Phase.generate],
    "suppress_health_check": [
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
}


@settings(max_examples=20, **STEADY)
@given(plan=plans(PART, 20 * PART))
async def test_an_upload_is_its_bytes_or_no_file(
    small_parts: list[FileServiceStub], as_user: Any, swept: Swept, plan: Plan
) -> None:
    await try_plan(small_parts, as_user(f"user{uuid4().hex}"), swept, plan)


@pytest.mark.slow
@settings(max_examples=150, **STEADY)
@given(plan=plans(PART, 20 * PART))
async def test_an_upload_in_many_parts_is_its_bytes_or_no_file(
    small_parts: list[FileServiceStub], as_user: Any, swept: Swept, plan: Plan
) -> None:
    await try_plan(small_parts, as_user(f"user{uuid4().hex}"), swept, plan)


@pytest.mark.slow
@settings(max_examples=25, **STEADY)
@given(plan=plans(LARGE_PART, LARGEST))
async def test_a_large_upload_is_its_bytes_or_no_file(
    usual_parts: list[FileServiceStub], as_user: Any, swept: Swept, plan: Plan
) -> None:
    await try_plan(usual_parts, as_user(f"user{uuid4().hex}"), swept, plan)
