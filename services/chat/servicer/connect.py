"""The life of one Connect stream: one task reads, one writes, and it ends in order.

Who half-closes gets the answers to all that it sent and then OK. When the server drains, `go_away` asks the client to
do just that; who has not after a moment gets SHUTTING_DOWN. In either case, and when the connection is cut, the token
has expired or the session is revoked, the stream is out of its rooms before its status goes out.
"""

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

from parley.chat.v1 import chat_service_pb2 as pb2
from services.chat.domain.conversation import Conversation, Conversations
from services.chat.domain.notices import Hello, Intent, Ping, Send, Subscribe, Unsubscribe
from services.chat.domain.outbox import Outbox
from services.chat.mapping import to_uuids
from services.chat.servicer.renewal import Renewal
from services.chat.servicer.responses import connect_responses
from services.kit.calls import Call
from services.kit.errors import RequestMalformed, RequestTooLarge, ShuttingDown, ValidationFailed
from services.kit.status import MAX_VIOLATIONS
from services.kit.streams import Stream

ConnectStream = Stream[pb2.ConnectRequest, pb2.ConnectResponse]

HELLO_SECONDS = 10.0
LAST_ACKS_SECONDS = 10.0
LAST_WRITES_SECONDS = 0.5
RECONNECT_SECONDS = (0.1, 1.0)
MAX_ID_CHARACTERS = 64


async def converse(stream: ConnectStream, call: Call, conversations: Conversations, *, go_away_seconds: float) -> None:
    """Serve one stream until its client has enough. Raises HelloExpected, ShuttingDown, and what a bad start raises."""
    try:
        async with asyncio.TaskGroup() as tasks:
            conversation = conversations.begin(call.caller.user_id, tasks)
            renewal = Renewal(call, conversation)
            try:
                writing = tasks.create_task(_write(stream, conversation.outbox))
                await conversation.handle(_intent(await stream.requests.receive(HELLO_SECONDS)))
                renewal.begin(tasks)
                half_closed = await _read_until_half_closed(stream, call, conversation, renewal, tasks, go_away_seconds)
                await conversation.finish(LAST_ACKS_SECONDS if half_closed else LAST_WRITES_SECONDS)
            finally:
                renewal.close()
                conversation.close()
                conversation.outbox.close()
            if not half_closed:
                await asyncio.wait((writing,), timeout=LAST_WRITES_SECONDS)
                writing.cancel()
    except BaseExceptionGroup as group:
        raise _first(group) from group
    if not half_closed:
        raise ShuttingDown


async def _read_until_half_closed(
    stream: ConnectStream,
    call: Call,
    conversation: Conversation,
    renewal: Renewal,
    tasks: asyncio.TaskGroup,
    go_away_seconds: float,
) -> bool:
    """Handle requests until the client half-closes (True), or has not done so in time when the server drains."""
    handling = asyncio.Lock()
    reading = tasks.create_task(_read(stream, conversation, renewal, handling))
    draining = tasks.create_task(call.draining.wait())
    await asyncio.wait((reading, draining), return_when=asyncio.FIRST_COMPLETED)
    draining.cancel()
    if reading.done():
        return True
    await conversation.go_away(timedelta(seconds=random.uniform(*RECONNECT_SECONDS)))  # noqa: S311  # no secret
    await asyncio.wait((reading,), timeout=go_away_seconds)
    async with handling:  # A request is answered or left unread, nothing in between.
        reading.cancel()
    await asyncio.wait((reading,))
    return not reading.cancelled()


async def _read(stream: ConnectStream, conversation: Conversation, renewal: Renewal, handling: asyncio.Lock) -> None:
    # A refusal may wait long for a client that does not read: it must hold nothing of the request, not even by its
    # stack. Hence a new one.
    while True:
        try:
            request = await stream.requests.receive()
        except ValidationFailed as refusal:
            await conversation.refuse(ValidationFailed(fields=refusal.fields[:MAX_VIOLATIONS]), **_nack_ids(refusal))
            continue
        except RequestMalformed:
            await conversation.refuse(RequestMalformed())
            continue
        except RequestTooLarge:
            await conversation.refuse(RequestTooLarge())
            continue
        if request is None:
            return
        async with handling:
            if request.WhichOneof("intent") == "reauthenticate":
                await renewal.reauthenticate(request.reauthenticate.access_token)
            else:
                await conversation.handle(_intent(request))


async def _write(stream: ConnectStream, outbox: Outbox) -> None:
    while told := await outbox.take():
        for response in connect_responses(told):
            await stream.send(response)


def _intent(request: pb2.ConnectRequest | None) -> Intent | None:
    """What the client wants of the conversation; None for a request that is nothing to it, and for none."""
    wanted = None if request is None else _INTENTS.get(request.WhichOneof("intent"))
    return None if wanted is None or request is None else wanted(request)


def _subscribe(subscribe: pb2.ConnectRequest.Subscribe) -> Subscribe:
    return Subscribe(UUID(subscribe.room_id), subscribe.after_sequence)


_INTENTS: dict[str | None, Callable[[pb2.ConnectRequest], Intent]] = {
    "hello": lambda r: Hello([_subscribe(cursor) for cursor in r.hello.cursors]),
    "subscribe": lambda r: _subscribe(r.subscribe),
    "unsubscribe": lambda r: Unsubscribe(UUID(r.unsubscribe.room_id)),
    "send": lambda r: Send(UUID(r.send.room_id), r.send.client_message_id, r.send.text, to_uuids(r.send.file_ids)),
    "ping": lambda r: Ping(r.ping.nonce),
}


def _nack_ids(refusal: ValidationFailed) -> dict[str, str]:
    """Which room and message a request that breaks the rules was about, as far as it says and an id can be long."""
    request = refusal.request
    if not isinstance(request, pb2.ConnectRequest):
        return {}
    ids: dict[str, str] = {}
    match request.WhichOneof("intent"):
        case "subscribe":
            ids = {"room_id": request.subscribe.room_id}
        case "unsubscribe":
            ids = {"room_id": request.unsubscribe.room_id}
        case "send":
            ids = {"room_id": request.send.room_id, "client_message_id": request.send.client_message_id}
    return {name: value[:MAX_ID_CHARACTERS] for name, value in ids.items()}


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
