"""What Connect refuses costs the server no more memory than a refusal has, however large the request was."""

import gc
import sys
from types import ModuleType
from typing import Any

import pytest

from parley.chat.v1 import chat_service_pb2 as pb2
from services.chat.domain.conversation import Conversation
from services.chat.domain.notices import Nack
from services.chat.settings import ChatSettings
from services.chat.wiring import open_chat
from services.kit.messages import MAX_REQUEST_BYTES
from tests.chat.conftest import Chat

AS_LARGE_AS_CAN_BE = MAX_REQUEST_BYTES - 1_000


@pytest.fixture
async def chat(serve: Any, settings: Any) -> Chat:
    return Chat(await serve(open_chat, settings(ChatSettings)))


async def test_a_nack_names_no_more_of_an_id_than_an_id_can_have(chat: Chat, as_user: Any) -> None:
    ann = as_user("ann")
    room_id = await chat.create_room(ann)
    async with chat.connect(ann) as stream:
        await stream.send(room_id, "x" * AS_LARGE_AS_CAN_BE)
        nack = await stream.notice("nack", room_id=room_id)
        assert nack.client_message_id == "x" * 64
        assert nack.ByteSize() < 1024


@pytest.mark.parametrize("raw", [b"\x22" + b"\xff" * 300_000, pb2.ConnectRequest.Send(text="x" * 300_000)])
async def test_a_refusal_that_waits_holds_nothing_of_its_request(
    chat: Chat, as_user: Any, monkeypatch: Any, raw: Any
) -> None:
    refused: list[Any] = []
    refuse = Conversation.refuse

    async def note(self: Conversation, reason: Any, **ids: str) -> None:
        refused.append(Nack(ids.get("room_id", ""), ids.get("client_message_id", ""), reason))
        await refuse(self, reason, **ids)

    monkeypatch.setattr(Conversation, "refuse", note)
    call = chat.raw_connect(as_user("ann"))
    await call.write(pb2.ConnectRequest(hello=pb2.ConnectRequest.Hello()).SerializeToString())
    await call.write(raw if isinstance(raw, bytes) else pb2.ConnectRequest(send=raw).SerializeToString())
    for _ in ("welcome", "nack"):
        await call.read()
    call.cancel()
    assert len(refused) == 1
    assert largest_held_by(refused[0]) < 10_000


def largest_held_by(root: object) -> int:
    """The size of the largest string or run of bytes that an object keeps alive, code and modules aside."""
    seen: set[int] = set()
    largest, waiting = 0, [root]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, type | ModuleType) or item is sys.modules:
            continue
        seen.add(id(item))
        if isinstance(item, str | bytes):
            largest = max(largest, sys.getsizeof(item))
        elif not (isinstance(item, dict) and "__builtins__" in item):
            waiting += gc.get_referents(item)
    return largest
