"""The part of UserService that is about users."""

from uuid import UUID

from parley.auth.v1 import user_service_pb2 as pb2
from services.auth.domain.administration import Administration
from services.auth.mapping.users import to_user
from services.auth.servicer.actor import actor_of
from services.kit.calls import Call
from services.kit.pages import next_page_token, read_page


class UserRpcs:
    """Looking at users, keeping them out, letting them back in, removing them."""

    def __init__(self, administration: Administration) -> None:
        self._administration = administration

    async def ListUsers(self, request: pb2.ListUsersRequest, call: Call) -> pb2.ListUsersResponse:
        list_name = f"users that are {request.filter}"
        page = await self._administration.list_users(
            actor_of(call),
            read_page(list_name, request.page_size, request.page_token, request.skip),
            request.filter,
        )
        return pb2.ListUsersResponse(
            users=[to_user(user) for user in page.items],
            next_page_token=next_page_token(list_name, page.next_after),
            total_size=page.total_size,
        )

    async def GetUser(self, request: pb2.GetUserRequest, call: Call) -> pb2.GetUserResponse:
        user = await self._administration.get_user(actor_of(call), UUID(request.user_id))
        return pb2.GetUserResponse(user=to_user(user))

    async def DisableUser(self, request: pb2.DisableUserRequest, call: Call) -> pb2.DisableUserResponse:
        user = await self._administration.disable_user(actor_of(call), UUID(request.user_id))
        return pb2.DisableUserResponse(user=to_user(user))

    async def EnableUser(self, request: pb2.EnableUserRequest, call: Call) -> pb2.EnableUserResponse:
        user = await self._administration.enable_user(actor_of(call), UUID(request.user_id))
        return pb2.EnableUserResponse(user=to_user(user))

    async def DeleteUser(self, request: pb2.DeleteUserRequest, call: Call) -> pb2.DeleteUserResponse:
        user = await self._administration.delete_user(actor_of(call), UUID(request.user_id))
        return pb2.DeleteUserResponse(user=to_user(user))

    async def UndeleteUser(self, request: pb2.UndeleteUserRequest, call: Call) -> pb2.UndeleteUserResponse:
        user = await self._administration.undelete_user(actor_of(call), UUID(request.user_id))
        return pb2.UndeleteUserResponse(user=to_user(user))

    async def PurgeUser(self, request: pb2.PurgeUserRequest, call: Call) -> pb2.PurgeUserResponse:
        user = await self._administration.purge_user(actor_of(call), UUID(request.user_id))
        return pb2.PurgeUserResponse(user=to_user(user))
