"""The fourth chapter: files."""

import os
from collections.abc import Iterator
from hashlib import sha256

import google_crc32c
from grpc import StatusCode

from parley.file.v1 import file_service_pb2 as pb2
from services.cli.demo.steps import Steps, WrongAnswer, expect, reason_in, refused
from services.cli.demo.suite import STREAM_SECONDS, Person, Suite, call

MIB = 1024 * 1024
CHUNK = 256 * 1024


async def carry(suite: Suite, steps: Steps, ann: Person, bob: Person) -> None:
    """A large file goes up and comes down; of three on one stream only the one that is too large is rejected."""
    data = os.urandom(9 * MIB)

    async with steps.step("Ann uploads 9 MiB in chunks, each with its crc32c, the whole with its SHA-256"):
        upload = suite.file.UploadFile(_steps_of(data), metadata=ann.metadata, timeout=STREAM_SECONDS)
        file = (await upload).file
        expect((file.size_bytes, file.sha256), (len(data), sha256(data).digest()), "the stored file")

    async with steps.step("She downloads it, and it is identical"):
        expect(sha256(await _downloaded(suite, ann, file.id)).digest(), file.sha256, "the SHA-256 of what came down")

    async with steps.step("She downloads a part from the middle, and one that lies beyond the end is refused"):
        offset, limit = 4 * MIB + 12_345, 1_000_000
        part = await _downloaded(suite, ann, file.id, offset, limit)
        expect(part == data[offset : offset + limit], True, "that the part is the one asked for")
        with refused(StatusCode.OUT_OF_RANGE, "RANGE_INVALID", "a part beyond the end"):
            await _downloaded(suite, ann, file.id, len(data) + 1)

    async with steps.step("Bob does not see Ann's file"):
        with refused(StatusCode.NOT_FOUND, "FILE_NOT_FOUND", "Bob's look at Ann's file"):
            await call(suite.file.GetFile, pb2.GetFileRequest(id=file.id), bob)

    async with steps.step("Three files go up on one stream; only the one that is too large is rejected"):
        limits = await call(suite.file.GetUploadLimits, pb2.GetUploadLimitsRequest(), ann)
        completed = await _upload_three(suite, ann, limits.max_file_bytes)

    async with steps.step("She deletes her files; they are gone"):
        listed = await call(suite.file.ListFiles, pb2.ListFilesRequest(), ann)
        expect({found.id for found in listed.files}, {file.id, *completed}, "the list")
        for file_id in (file.id, *completed):
            await call(suite.file.DeleteFile, pb2.DeleteFileRequest(id=file_id), ann)
        with refused(StatusCode.NOT_FOUND, "FILE_NOT_FOUND", "a deleted file"):
            await _downloaded(suite, ann, file.id)


def _steps_of(data: bytes) -> Iterator[pb2.UploadFileRequest]:
    yield pb2.UploadFileRequest(
        start=pb2.UploadStart(filename="demo.bin", content_type="application/octet-stream", size_bytes=len(data))
    )
    for chunk in _chunks(data):
        yield pb2.UploadFileRequest(chunk=chunk)
    yield pb2.UploadFileRequest(finish=_finish(data))


def _chunks(data: bytes) -> Iterator[pb2.UploadChunk]:
    for offset in range(0, len(data), CHUNK):
        part = data[offset : offset + CHUNK]
        yield pb2.UploadChunk(offset=offset, data=part, crc32c=google_crc32c.value(part))


def _finish(data: bytes) -> pb2.UploadFinish:
    return pb2.UploadFinish(size_bytes=len(data), sha256=sha256(data).digest())


async def _downloaded(suite: Suite, person: Person, file_id: str, offset: int = 0, limit: int = 0) -> bytes:
    request = pb2.DownloadFileRequest(id=file_id, offset=offset, limit=limit)
    download = suite.file.DownloadFile(request, metadata=person.metadata, timeout=STREAM_SECONDS)
    parts: list[bytes] = []
    position = offset
    kinds: list[str] = []
    try:
        async for response in download:
            kinds.append(response.WhichOneof("content") or "")
            if kinds[-1] == "chunk":
                chunk = response.chunk
                expect(chunk.offset, position, "the offset of a chunk")
                expect(google_crc32c.value(chunk.data), chunk.crc32c, "the crc32c of a chunk")
                parts.append(chunk.data)
                position += len(chunk.data)
            elif kinds[-1] == "trailer":
                expect(response.trailer.size_bytes, position - offset, "the size in the trailer")
    finally:
        download.cancel()
    expect(kinds, ["file", *["chunk"] * len(parts), "trailer"], "the order of the messages")
    return b"".join(parts)


async def _upload_three(suite: Suite, person: Person, max_file_bytes: int) -> list[str]:
    """Upload three files interleaved, of which the second says that it is too large; the ids of the other two."""
    contents = {"first": os.urandom(MIB), "second": os.urandom(MIB), "third": os.urandom(MIB)}

    def messages() -> Iterator[pb2.UploadFilesRequest]:
        for key, content in contents.items():
            size = max_file_bytes + 1 if key == "second" else len(content)
            yield pb2.UploadFilesRequest(key=key, start=pb2.UploadStart(filename=f"{key}.bin", size_bytes=size))
        for chunks in zip(*(_chunks(content) for content in contents.values()), strict=True):
            for key, chunk in zip(contents, chunks, strict=True):
                yield pb2.UploadFilesRequest(key=key, chunk=chunk)
        for key, content in contents.items():
            yield pb2.UploadFilesRequest(key=key, finish=_finish(content))

    stream = suite.file.UploadFiles(messages(), metadata=person.metadata, timeout=STREAM_SECONDS)
    completed: dict[str, str] = {}
    rejected: dict[str, str] = {}
    try:
        async for answer in stream:
            if answer.WhichOneof("outcome") == "completed":
                expect(answer.completed.sha256, sha256(contents[answer.key]).digest(), f"the SHA-256 of {answer.key}")
                completed[answer.key] = answer.completed.id
            else:
                rejected[answer.key] = reason_in(answer.rejected)
    finally:
        stream.cancel()
    expect(rejected, {"second": "FILE_TOO_LARGE"}, "what was rejected")
    if set(completed) != {"first", "third"}:
        raise WrongAnswer(f"completed were {sorted(completed)}, and should be the first and the third")
    return list(completed.values())
