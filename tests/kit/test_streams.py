"""Streams: all that is written arrives, nothing that is read is lost, and a refusal reaches who still writes."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc import StatusCode

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1 import file_service_pb2_grpc as pb2_grpc
from services.kit.errors import CallTooLong, ResourceExhausted
from tests.kit.conftest import Start, started
from tests.support import Metadata, raises_status

CHUNK = pb2.UploadFileRequest(chunk=pb2.UploadChunk(data=bytes(64_000)))


class FileTooLarge(ResourceExhausted):
    """The file is larger than the server takes."""

    reason = "FILE_TOO_LARGE"


async def refuse_the_second(requests: Any, _call: Any) -> None:
    """Reject an upload while its client is still sending."""
    await requests.receive()
    await requests.receive()
    raise FileTooLarge


async def refuse_the_first(stream: Any, _call: Any) -> None:
    """Reject a stream in both directions at its first message."""
    await stream.requests.receive()
    raise FileTooLarge


def chunks() -> list[pb2.UploadFileRequest]:
    return [started(), *[CHUNK] * 40]


@pytest.mark.parametrize("style", ["write", "iterator", "async iterator"])
async def test_a_client_that_still_sends_sees_why_it_is_refused(start: Start, token: Metadata, style: str) -> None:
    stub = pb2_grpc.FileServiceStub(await start(UploadFile=refuse_the_second))

    async def one_by_one() -> AsyncIterator[pb2.UploadFileRequest]:
        for message in chunks():
            yield message

    for _ in range(50):
        with raises_status(StatusCode.RESOURCE_EXHAUSTED, "FILE_TOO_LARGE"):
            if style == "write":
                call = stub.UploadFile(metadata=token, timeout=10)
                for message in chunks():
                    await call.write(message)
                await call.done_writing()
                await call
            else:
                messages = iter(chunks()) if style == "iterator" else one_by_one()
                await stub.UploadFile(messages, metadata=token, timeout=10)


async def test_a_client_without_a_token_that_still_sends_sees_why_it_is_refused(start: Start) -> None:
    stub = pb2_grpc.FileServiceStub(await start())
    for _ in range(50):
        with raises_status(StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"):
            call = stub.UploadFile(timeout=10)
            for message in chunks():
                await call.write(message)
            await call.done_writing()
            await call


async def test_a_client_of_both_directions_that_still_sends_sees_why_it_is_refused(
    start: Start, token: Metadata
) -> None:
    stub = pb2_grpc.FileServiceStub(await start(UploadFiles=refuse_the_first))
    for _ in range(50):
        with raises_status(StatusCode.RESOURCE_EXHAUSTED, "FILE_TOO_LARGE"):
            call = stub.UploadFiles(metadata=token, timeout=10)
            for _ in range(40):
                await call.write(pb2.UploadFilesRequest(key="a", chunk=CHUNK.chunk))
            await call.done_writing()
            async for _ in call:
                pass


async def test_a_client_of_both_directions_that_waits_for_an_answer_sees_why_it_is_refused(
    start: Start, token: Metadata
) -> None:
    stub = pb2_grpc.FileServiceStub(await start(UploadFiles=refuse_the_first))
    call = stub.UploadFiles(metadata=token, timeout=10)
    await call.write(started("a"))
    async with asyncio.timeout(3):
        with raises_status(StatusCode.RESOURCE_EXHAUSTED, "FILE_TOO_LARGE"):
            await call.read()


async def test_messages_sent_by_many_tasks_at_once_all_arrive(start: Start, token: Metadata) -> None:
    async def send_at_once(stream: Any, _call: Any) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(stream.send(pb2.UploadFilesResponse(key=str(number))))

    stub = pb2_grpc.FileServiceStub(await start(UploadFiles=send_at_once))
    call = stub.UploadFiles(iter([started("a")]), metadata=token, timeout=10)
    assert {answer.key async for answer in call} == {str(number) for number in range(200)}


async def test_a_read_that_is_cancelled_loses_nothing(start: Start, token: Metadata) -> None:
    impatient = asyncio.Event()

    async def give_up_and_read_on(requests: Any, _call: Any) -> pb2.UploadFileResponse:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(requests.receive(), 0.05)
        with pytest.raises(CallTooLong):
            await requests.receive(0.05)
        impatient.set()
        received = [request.chunk.offset async for request in requests]
        return pb2.UploadFileResponse(file=pb2.File(size_bytes=len(received), filename=str(received)))

    stub = pb2_grpc.FileServiceStub(await start(UploadFile=give_up_and_read_on))
    call = stub.UploadFile(metadata=token, timeout=10)
    await asyncio.wait_for(impatient.wait(), 5)
    for offset in (1, 2, 3):
        await call.write(pb2.UploadFileRequest(chunk=pb2.UploadChunk(offset=offset, data=b"x")))
    await call.done_writing()
    assert (await call).file.filename == "[1, 2, 3]"


async def test_the_other_tasks_of_a_stream_may_fail_while_it_reads(start: Start, token: Metadata) -> None:
    async def fail_beside_a_reader(stream: Any, _call: Any) -> None:
        async def fail() -> None:
            raise FileTooLarge

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(stream.requests.receive())
                await asyncio.sleep(0)
                group.create_task(fail())
        except* FileTooLarge:
            pass
        raise FileTooLarge

    stub = pb2_grpc.FileServiceStub(await start(UploadFiles=fail_beside_a_reader))
    for _ in range(50):
        with raises_status(StatusCode.RESOURCE_EXHAUSTED, "FILE_TOO_LARGE"):
            call = stub.UploadFiles(metadata=token, timeout=10)
            for _ in range(40):
                await call.write(pb2.UploadFilesRequest(key="a", chunk=CHUNK.chunk))
            await call.done_writing()
            await call.read()


async def test_an_invalid_message_does_not_end_a_stream_that_can_answer_it(start: Start, token: Metadata) -> None:
    async def answer_each(stream: Any, _call: Any) -> None:
        while True:
            try:
                if await stream.requests.receive() is None:
                    return
                await stream.send(pb2.UploadFilesResponse(key="good"))
            except Exception as error:  # noqa: BLE001  # its name is what is asked for
                await stream.send(pb2.UploadFilesResponse(key=type(error).__name__))

    channel: Any = await start(UploadFiles=answer_each)
    good, bad = started("a").SerializeToString(), b"\x0a\x7f"
    call = channel.stream_stream("/parley.file.v1.FileService/UploadFiles")(
        iter([good, bad, b"", good]), metadata=token, timeout=5
    )
    answers = [pb2.UploadFilesResponse.FromString(raw).key async for raw in call]
    assert answers == ["good", "RequestMalformed", "ValidationFailed", "good"]


async def test_a_stream_that_ends_while_it_reads_leaves_no_task_and_no_forgotten_exception(
    start: Start, token: Metadata
) -> None:
    async def refuse_while_reading(stream: Any, _call: Any) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.requests.receive(), 0.05)
        raise FileTooLarge

    loop = asyncio.get_running_loop()
    stub = pb2_grpc.FileServiceStub(await start(UploadFiles=refuse_while_reading))
    before = len(asyncio.all_tasks())
    forgotten: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: forgotten.append(context))
    try:
        with raises_status(StatusCode.RESOURCE_EXHAUSTED, "FILE_TOO_LARGE"):
            await stub.UploadFiles(metadata=token, timeout=10).read()
        async with asyncio.timeout(5):
            while len(asyncio.all_tasks()) > before:  # noqa: ASYNC110  # there is no event for it
                await asyncio.sleep(0.01)
        gc.collect()
    finally:
        loop.set_exception_handler(None)
    assert forgotten == []


async def test_a_stream_whose_write_was_cut_short_still_ends_with_its_status(start: Start, token: Metadata) -> None:
    async def begin_to_send_and_give_up(stream: Any, _call: Any) -> None:
        async for _ in stream.requests:
            pass
        sending = asyncio.ensure_future(stream.send(pb2.UploadFilesResponse(key="a" * 100_000)))
        for _ in range(3):  # Until gRPC has the message, and not until it has said so.
            await asyncio.sleep(0)
        sending.cancel()
        raise FileTooLarge

    stub = pb2_grpc.FileServiceStub(await start(UploadFiles=begin_to_send_and_give_up))
    for _ in range(20):
        call = stub.UploadFiles(iter([started("a")]), metadata=token, timeout=5)
        with raises_status(StatusCode.RESOURCE_EXHAUSTED, "FILE_TOO_LARGE"):
            async for _ in call:
                pass


async def test_a_client_that_still_sends_to_an_unknown_method_sees_that_it_is_unknown(start: Start) -> None:
    channel: Any = await start()
    for _ in range(50):
        call = channel.stream_unary("/parley.file.v1.FileService/Burn")(timeout=10)
        with raises_status(StatusCode.UNIMPLEMENTED, "METHOD_UNKNOWN"):
            for message in chunks():
                await call.write(message.SerializeToString())
            await call.done_writing()
            await call
