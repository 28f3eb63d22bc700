"""Files that belong to an execution's input: read through the file service, on the user's behalf."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import google_crc32c
import grpc
import pytest
from google.rpc import error_details_pb2 as details_pb2
from grpc import StatusCode

from parley.agent.v1 import execution_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from parley.agent.v1.execution_service_pb2_grpc import ExecutionServiceStub
from parley.file.v1 import file_service_pb2 as file_pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.agent.settings import AgentSettings
from services.agent.wiring import open_agent
from services.file.settings import FileSettings
from services.file.wiring import open_file
from services.kit.server import running
from tests.agent.conftest import draft
from tests.agent.providers.server import ProviderServer
from tests.agent.runs import get, run
from tests.conftest import Serve
from tests.service_process import channel_to
from tests.sharing import Sharing
from tests.support import Metadata, TestKeys, bearer, detail, identity_of, raises_status, reason_of, status_of

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


class Place:
    """Agent and file services, with a model that sees images and one (`echo`) that does not."""

    def __init__(self, agent_channel: Any, file_channel: Any, provider: ProviderServer) -> None:
        self.agents = AgentServiceStub(agent_channel)
        self.executions = ExecutionServiceStub(agent_channel)
        self.files = FileServiceStub(file_channel)
        self.provider = provider

    async def upload(self, content: bytes, metadata: Metadata, filename: str = "notes.txt") -> str:
        steps = [
            file_pb2.UploadFileRequest(start=file_pb2.UploadStart(filename=filename)),
            *(
                file_pb2.UploadFileRequest(
                    chunk=file_pb2.UploadChunk(
                        offset=at, data=content[at : at + 2**20], crc32c=google_crc32c.value(content[at : at + 2**20])
                    )
                )
                for at in range(0, len(content), 2**20)
            ),
            file_pb2.UploadFileRequest(finish=file_pb2.UploadFinish(size_bytes=len(content))),
        ]
        return (await self.files.UploadFile(iter(steps), metadata=metadata)).file.id

    async def agent(self, metadata: Metadata, model_name: str = "some-model") -> str:
        return (await self.agents.CreateAgent(draft(model_name=model_name), metadata=metadata)).agent.id


@pytest.fixture
async def place(serve: Serve, settings: Any, keys: TestKeys) -> AsyncIterator[Place]:
    own = settings(FileSettings)
    async with (
        open_file(own) as service,
        running(replace(service, identity=identity_of(keys)), own, port=0) as address,
        channel_to(address) as file_channel,
        ProviderServer() as provider,
    ):
        given = {
            "agent_model_routes": "echo*=echo,*=openai",
            "agent_openai_base_url": provider.openai_url,
            "file_target": address,
        }
        yield Place(await serve(open_agent, settings(AgentSettings, **given)), file_channel, provider)


async def test_text_becomes_part_of_what_the_model_is_told_and_images_are_shown(place: Place, as_user: Any) -> None:
    ann = as_user("ann")
    notes, picture = await place.upload("Wörds.".encode(), ann), await place.upload(PNG, ann, "a.png")
    created, told = await run(
        place.executions, ann, agent_id=await place.agent(ann), input="Look:", file_ids=[notes, picture]
    )
    assert told.states[-1] == "SUCCEEDED"
    (said,) = [m for m in place.provider.requests[0].body["messages"] if m["role"] == "user"]
    text = "".join(part.get("text", "") for part in said["content"])
    assert text == 'Look:\n\n<file name="notes.txt">\nWörds.\n</file>'
    images = [part["image_url"]["url"] for part in said["content"] if part["type"] == "image_url"]
    assert len(images) == 1
    assert images[0].startswith("data:image/png;base64,")
    kept = await get(place.executions, created.id, ann)
    assert list(kept.file_ids) == [notes, picture]
    assert kept.input == "Look:"


async def test_a_file_that_is_deleted_after_the_creation_is_still_there_for_the_run(place: Place, as_user: Any) -> None:
    ann = as_user("ann")
    agent_id, notes = await place.agent(ann, "echo-1"), await place.upload(b"kept", ann)
    talk = str(uuid4())
    request = pb2.CreateExecutionRequest(
        agent_id=agent_id, input="Say:", file_ids=[notes], conversation_id=talk, request_id=str(uuid4())
    )
    created = await place.executions.CreateExecution(request, metadata=ann)
    await place.files.DeleteFile(file_pb2.DeleteFileRequest(id=notes), metadata=ann)
    again = await place.executions.CreateExecution(request, metadata=ann)
    assert again.execution.id == created.execution.id
    _, told = await run(
        place.executions, ann, agent_id=agent_id, input="x", conversation_id=talk, overlap=pb2.OVERLAP_QUEUE
    )
    assert told.states[-1] == "SUCCEEDED"
    kept = await get(place.executions, created.execution.id, ann)
    assert "kept" in kept.output


@pytest.mark.parametrize(
    ("content", "model_name", "problem"),
    [
        (b"\x00\x01\x02\xff", "some-model", "must be text in UTF-8, or a PNG, JPEG, GIF or WebP image"),
        (b"x" * (512 * 1024 + 1), "some-model", "must have at most 524288 bytes, being text"),
        (b"x" * (5 * 1024 * 1024 + 1), "some-model", "must have at most 5242880 bytes"),
        (PNG, "echo-1", "is an image, and the agent's model does not see images"),
    ],
    ids=["neither", "long-text", "large", "blind-model"],
)
async def test_a_file_that_is_no_input_is_refused_by_its_place(
    place: Place, as_user: Any, content: bytes, model_name: str, problem: str
) -> None:
    ann = as_user("ann")
    good, bad = await place.upload(b"fine", ann), await place.upload(content, ann)
    request = pb2.CreateExecutionRequest(
        agent_id=await place.agent(ann, model_name), input="Look:", file_ids=[good, bad]
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await place.executions.CreateExecution(request, metadata=ann)
    assert caught.value.code() == StatusCode.INVALID_ARGUMENT
    status = status_of(caught.value)
    assert reason_of(status) == "INPUT_FILE_REFUSED"
    bad_request = detail(status, details_pb2.BadRequest)
    assert bad_request is not None
    assert [(v.field, v.description) for v in bad_request.field_violations] == [("file_ids[1]", problem)]
    assert (await place.executions.ListExecutions(pb2.ListExecutionsRequest(), metadata=ann)).total_size == 0


@pytest.fixture
async def sharing(serve: Serve, settings: Any, keys: TestKeys) -> Sharing:
    """Agent, file and chat, which know one another."""
    return await Sharing(serve, settings, keys).start("auth", "file", "agent", "chat")


async def test_a_file_that_the_user_may_not_read_is_no_input(sharing: Sharing, as_user: Any) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    theirs = await sharing.upload(bob, b"secret")
    for file_id in (theirs, str(uuid4())):
        with raises_status(StatusCode.INVALID_ARGUMENT, "INPUT_FILE_REFUSED", fields=["file_ids[0]"]):
            await sharing.use(ann, [file_id])


async def test_a_file_that_is_shared_with_the_user_is_an_input_and_the_user_goes_on_reading_it(
    sharing: Sharing, as_user: Any, keys: TestKeys
) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    file_id, other = await sharing.upload(ann, b"shared"), await sharing.upload(ann)
    await sharing.post(await sharing.chat.room_of(ann, bob), ann, file_id, other)
    service = bearer(keys.service_token("parley.agent.v1.ExecutionService/CheckFileReader"))

    async def may_read(name: str, file_id: str) -> bool:
        request = pb2.CheckFileReaderRequest(file_id=file_id, user_id=str(as_user.id(name)))
        return (await sharing.executions.CheckFileReader(request, metadata=service)).may_read

    assert not await may_read("bob", file_id)
    created = await sharing.use(bob, [file_id])
    assert list(created.file_ids) == [file_id]
    assert await may_read("bob", file_id)
    assert not await may_read("bob", other), "of the room, but of no execution"
    assert not await may_read("ann", file_id), "hers, but of no execution of hers"


async def test_while_the_file_service_is_away_files_can_be_no_input_and_all_else_goes_on(
    serve: Serve, settings: Any, as_user: Any, tmp_path: Any
) -> None:
    ann = as_user("ann")
    channel = await serve(open_agent, settings(AgentSettings, file_target=f"unix:{tmp_path}/nobody"))
    executions = ExecutionServiceStub(channel)
    agent_id = (await AgentServiceStub(channel).CreateAgent(draft(), metadata=ann)).agent.id
    request = pb2.CreateExecutionRequest(agent_id=agent_id, input="Look:", file_ids=[str(uuid4())])
    with raises_status(StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE"):
        await executions.CreateExecution(request, metadata=ann, timeout=10)
    _, told = await run(executions, ann, agent_id=agent_id, input="without files")
    assert told.text == "without files"
