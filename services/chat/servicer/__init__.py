"""`parley.chat.v1.ChatService`: protobuf in, one call of the domain, protobuf out."""

from collections.abc import AsyncIterator
from uuid import UUID

from parley.chat.v1 import chat_service_pb2 as pb2
from services.chat.domain.conversation import Conversations
from services.chat.domain.following import Following
from services.chat.domain.messages import Messages
from services.chat.domain.rooms import RoomDraft, Rooms
from services.chat.domain.shared_files import SharedFiles
from services.chat.mapping import to_member, to_message, to_room, to_uuid, to_uuids
from services.chat.servicer.connect import converse
from services.chat.servicer.responses import watch_responses
from services.kit.calls import Call
from services.kit.pages import MAX_PAGE_SIZE, next_page_token, read_page
from services.kit.streams import Stream


class ChatServicer:
    """Rooms, messages and the streams that follow them."""

    def __init__(
        self,
        rooms: Rooms,
        messages: Messages,
        following: Following,
        conversations: Conversations,
        shared_files: SharedFiles,
        *,
        go_away_seconds: float,
    ) -> None:
        self._rooms = rooms
        self._messages = messages
        self._following = following
        self._conversations = conversations
        self._shared_files = shared_files
        self._go_away_seconds = go_away_seconds

    async def CreateRoom(self, request: pb2.CreateRoomRequest, call: Call) -> pb2.CreateRoomResponse:
        draft = RoomDraft(request.name, request.description)
        room = await self._rooms.create_room(call.caller.user_id, draft, to_uuid(request.request_id))
        return pb2.CreateRoomResponse(room=to_room(room))

    async def GetRoom(self, request: pb2.GetRoomRequest, _call: Call) -> pb2.GetRoomResponse:
        return pb2.GetRoomResponse(room=to_room(await self._rooms.get_room(UUID(request.id))))

    async def ListRooms(self, request: pb2.ListRoomsRequest, call: Call) -> pb2.ListRoomsResponse:
        joined_by = call.caller.user_id if request.joined_only else None
        list_name = f"rooms of {joined_by or 'all'}"
        page = await self._rooms.list_rooms(
            read_page(list_name, request.page_size, request.page_token, request.skip), joined_by=joined_by
        )
        return pb2.ListRoomsResponse(
            rooms=[to_room(room) for room in page.items],
            next_page_token=next_page_token(list_name, page.next_after),
            total_size=page.total_size,
        )

    async def JoinRoom(self, request: pb2.JoinRoomRequest, call: Call) -> pb2.JoinRoomResponse:
        member = await self._rooms.join_room(call.caller.user_id, UUID(request.room_id))
        return pb2.JoinRoomResponse(member=to_member(member))

    async def LeaveRoom(self, request: pb2.LeaveRoomRequest, call: Call) -> pb2.LeaveRoomResponse:
        await self._rooms.leave_room(call.caller.user_id, UUID(request.room_id))
        return pb2.LeaveRoomResponse()

    async def ListMembers(self, request: pb2.ListMembersRequest, call: Call) -> pb2.ListMembersResponse:
        room_id = UUID(request.room_id)
        list_name = f"members of {room_id}"
        page = await self._rooms.list_members(
            call.caller.user_id, room_id, read_page(list_name, request.page_size, request.page_token, request.skip)
        )
        return pb2.ListMembersResponse(
            members=[to_member(member) for member in page.items],
            next_page_token=next_page_token(list_name, page.next_after),
            total_size=page.total_size,
        )

    async def SendMessage(self, request: pb2.SendMessageRequest, call: Call) -> pb2.SendMessageResponse:
        message = await self._messages.send_message(
            call.caller.user_id,
            UUID(request.room_id),
            request.client_message_id,
            request.text,
            to_uuids(request.file_ids),
        )
        return pb2.SendMessageResponse(message=to_message(message))

    async def ListMessages(self, request: pb2.ListMessagesRequest, call: Call) -> pb2.ListMessagesResponse:
        messages, last_sequence = await self._messages.list_messages(
            call.caller.user_id,
            UUID(request.room_id),
            size=request.page_size or MAX_PAGE_SIZE,
            after=request.after_sequence,
            before=request.before_sequence if request.HasField("before_sequence") else None,
        )
        return pb2.ListMessagesResponse(
            messages=[to_message(message) for message in messages], last_sequence=last_sequence
        )

    async def WatchRoom(self, request: pb2.WatchRoomRequest, call: Call) -> AsyncIterator[bytes]:
        user_id, room_id = call.caller.user_id, UUID(request.room_id)
        with await self._following.watch_room(user_id, room_id, request.after_sequence) as room:
            async for told in room:
                for response in watch_responses(told):
                    yield response

    async def Connect(self, stream: Stream[pb2.ConnectRequest, pb2.ConnectResponse], call: Call) -> None:
        await converse(stream, call, self._conversations, go_away_seconds=self._go_away_seconds)

    async def CheckFileReader(self, request: pb2.CheckFileReaderRequest, _call: Call) -> pb2.CheckFileReaderResponse:
        may_read = await self._shared_files.check_file_reader(UUID(request.user_id), UUID(request.file_id))
        return pb2.CheckFileReaderResponse(may_read=may_read)
