"""For every RPC a request that somebody would make of what belongs to a user: real objects."""

import secrets
import uuid
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any

import google_crc32c
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from parley.agent.v1 import agent_service_pb2 as agent
from parley.agent.v1 import execution_service_pb2 as execution
from parley.auth.v1 import auth_service_pb2 as auth
from parley.auth.v1 import user_service_pb2 as users
from parley.chat.v1 import chat_service_pb2 as chat
from parley.file.v1 import file_service_pb2 as file
from services.kit.ids import uuid7
from tests.stage import PASSWORD, Person, Stage

NEW_PASSWORD = "a quieter pony clips its paper"
DATA = b"What is in the file."


class Belongings:
    """What belongs to one user, or is an administrator's to decide about; made when it is asked for, anew each time."""

    def __init__(self, stage: Stage, user: Person, director: Person) -> None:
        self._stage = stage
        self._director = director
        self.user = user

    async def agent_id(self) -> str:
        return str((await self._made("parley.agent.v1.AgentService/CreateAgent", self.user)).agent.id)

    async def deleted_agent_id(self) -> str:
        agent_id = await self.agent_id()
        request = agent.DeleteAgentRequest(id=agent_id)
        await self._stage.call("parley.agent.v1.AgentService/DeleteAgent", [request], self.user.metadata)
        return agent_id

    async def execution_id(self) -> str:
        return str((await self._made("parley.agent.v1.ExecutionService/CreateExecution", self.user)).execution.id)

    async def file_id(self) -> str:
        return str((await self._made("parley.file.v1.FileService/UploadFile", self.user)).file.id)

    async def deleted_file_id(self) -> str:
        file_id = await self.file_id()
        request = file.DeleteFileRequest(id=file_id)
        await self._stage.call("parley.file.v1.FileService/DeleteFile", [request], self.user.metadata)
        return file_id

    async def upload_id(self) -> str:
        return str((await self._made("parley.file.v1.FileService/CreateUpload", self.user)).upload.id)

    async def room_id(self) -> str:
        """A room with a message."""
        room_id = str((await self._made("parley.chat.v1.ChatService/CreateRoom", self.user)).room.id)
        message = chat.SendMessageRequest(room_id=room_id, client_message_id="1", text="hello")
        await self._stage.call("parley.chat.v1.ChatService/SendMessage", [message], self.user.metadata)
        return room_id

    def session_id(self) -> str:
        return str(self._stage.session(self.user.id))

    def refresh_token(self) -> str:
        token = secrets.token_urlsafe(32)
        self._stage.session(self.user.id, token)
        return token

    def somebody(self) -> Person:
        """Another user with the same password: what is asked for too often of one is refused."""
        return self._stage.person("somebody")

    def code(self, purpose: str) -> str:
        """A code as it would be mailed."""
        code = "ABCDEFGHJKMNPQRS"
        self._stage.execute(
            "INSERT INTO auth.email_codes (user_id, purpose, code_hash, create_time, expire_time, tries)"
            " VALUES (%s, %s, %s, now(), now() + interval '15 minutes', 0)"
            " ON CONFLICT (user_id, purpose) DO UPDATE SET code_hash = excluded.code_hash, tries = 0",
            (self.user.id, purpose, sha256(code.encode()).digest()),
        )
        self._stage.execute("UPDATE auth.users SET email_verify_time = NULL WHERE id = %s", (self.user.id,))
        return code

    async def service_account(self) -> users.CreateServiceAccountResponse:
        return await self._made("parley.auth.v1.UserService/CreateServiceAccount", self._director)  # type: ignore[no-any-return]  # its answer

    async def waiting_key(self) -> str:
        """A signing key that has been published for long enough."""
        made = await self._made("parley.auth.v1.UserService/CreateSigningKey", self._director)
        self._stage.execute(
            "UPDATE auth.signing_keys SET create_time = create_time - interval '1 day' WHERE kid = %s",
            (made.signing_key.kid,),
        )
        return str(made.signing_key.kid)

    async def deleted(self) -> str:
        """The user, who was deleted."""
        await self._made("parley.auth.v1.UserService/DeleteUser", self._director)
        return str(self.user.id)

    async def _made(self, rpc: str, by: Person) -> Any:
        return await self._stage.call(rpc, await REQUESTS[rpc](self), by.metadata)


Request = Callable[[Belongings], Awaitable[list[Message]]]


def plain(make: Callable[[Belongings], Message | list[Message]]) -> Request:
    """A request that needs nothing to be made first."""

    async def request(b: Belongings) -> list[Message]:
        made = make(b)
        return made if isinstance(made, list) else [made]

    return request


def at(make: Callable[[str], Message], find: Callable[[Belongings], Awaitable[str]]) -> Request:
    """A request that names an object that is made first."""

    async def request(b: Belongings) -> list[Message]:
        return [make(await find(b))]

    return request


async def _issue_service_token(b: Belongings) -> list[Message]:
    made = await b.service_account()
    return [
        auth.IssueServiceTokenRequest(client_id=made.service_account.name, client_secret=made.client_secret),
    ]


async def _account_id(b: Belongings) -> str:
    return (await b.service_account()).service_account.id


async def _connect(b: Belongings) -> list[Message]:
    cursor = chat.ConnectRequest.Subscribe(room_id=await b.room_id())
    return [chat.ConnectRequest(hello=chat.ConnectRequest.Hello(cursors=[cursor]))]


def _upload(kind: type[Message], **key: str) -> list[Message]:
    chunk = file.UploadChunk(offset=0, data=DATA, crc32c=google_crc32c.value(DATA))
    return [
        kind(**key, start=file.UploadStart(filename="notes.txt")),
        kind(**key, chunk=chunk),
        kind(**key, finish=file.UploadFinish(size_bytes=len(DATA))),
    ]


def _rename(file_id: str) -> Message:
    patch = file.FilePatch(filename="renamed.txt")
    return file.UpdateFileRequest(id=file_id, file=patch, update_mask=FieldMask(paths=["filename"]))


def _refusal(b: Belongings) -> Message:
    refusal = auth.RecordRefusalsRequest.Refusal(
        id=str(uuid7()),
        method="parley.agent.v1.AgentService/GetAgent",
        subject_id=str(b.user.id),
        session_id=str(b.user.session_id),
        address="192.0.2.7",
    )
    refusal.create_time.GetCurrentTime()
    return auth.RecordRefusalsRequest(refusals=[refusal])


def _register(_: Belongings) -> Message:
    return auth.RegisterRequest(email=f"new.{uuid.uuid4().hex}@example.com", password=PASSWORD, full_name="Newcomer")


def _update_current_user(_: Belongings) -> Message:
    return auth.UpdateCurrentUserRequest(
        user=auth.User(full_name="Somebody Else"), update_mask=FieldMask(paths=["full_name"])
    )


def _draft(_: Belongings) -> Message:
    return agent.CreateAgentRequest(
        name="Scribe", model_name="echo-1", system_prompt="You write down what is said.", request_id=str(uuid.uuid4())
    )


def _patch(agent_id: str) -> Message:
    patch = agent.AgentPatch(description="Another's idea")
    return agent.UpdateAgentRequest(id=agent_id, agent=patch, update_mask=FieldMask(paths=["description"]))


_AUTH: dict[str, Request] = {
    "Register": plain(_register),
    "Login": plain(lambda b: auth.LoginRequest(email=b.user.email, password=PASSWORD)),
    "RefreshToken": plain(lambda b: auth.RefreshTokenRequest(refresh_token=b.refresh_token())),
    "Logout": plain(lambda _: auth.LogoutRequest()),
    "GetCurrentUser": plain(lambda _: auth.GetCurrentUserRequest()),
    "UpdateCurrentUser": plain(_update_current_user),
    "ChangePassword": plain(
        lambda _: auth.ChangePasswordRequest(current_password=PASSWORD, new_password=NEW_PASSWORD),
    ),
    "RequestPasswordReset": plain(lambda b: auth.RequestPasswordResetRequest(email=b.somebody().email)),
    "ResetPassword": plain(
        lambda b: auth.ResetPasswordRequest(
            email=b.user.email, code=b.code("PASSWORD_RESET"), new_password=NEW_PASSWORD
        ),
    ),
    "RequestEmailVerification": plain(lambda _: auth.RequestEmailVerificationRequest()),
    "VerifyEmail": plain(lambda b: auth.VerifyEmailRequest(code=b.code("EMAIL_VERIFICATION"))),
    "ListSessions": plain(lambda _: auth.ListSessionsRequest()),
    "RevokeSession": plain(lambda b: auth.RevokeSessionRequest(session_id=b.session_id())),
    "GetJwks": plain(lambda _: auth.GetJwksRequest()),
    "SendWelcomeEmail": plain(lambda _: auth.SendWelcomeEmailRequest()),
    "IssueServiceToken": _issue_service_token,
    "WatchRevocations": plain(lambda _: auth.WatchRevocationsRequest()),
    "RecordRefusals": plain(_refusal),
}
_USERS: dict[str, Request] = {
    "ListUsers": plain(lambda _: users.ListUsersRequest()),
    "GetUser": plain(lambda b: users.GetUserRequest(user_id=str(b.user.id))),
    "DisableUser": plain(lambda b: users.DisableUserRequest(user_id=str(b.user.id))),
    "EnableUser": plain(lambda b: users.EnableUserRequest(user_id=str(b.user.id))),
    "DeleteUser": plain(lambda b: users.DeleteUserRequest(user_id=str(b.user.id))),
    "UndeleteUser": at(lambda user_id: users.UndeleteUserRequest(user_id=user_id), Belongings.deleted),
    "PurgeUser": plain(lambda b: users.PurgeUserRequest(user_id=str(b.user.id))),
    "CreateServiceAccount": plain(
        lambda _: users.CreateServiceAccountRequest(name=f"tests-{uuid.uuid4().hex}"),
    ),
    "ListServiceAccounts": plain(lambda _: users.ListServiceAccountsRequest()),
    "RotateServiceAccountSecret": at(
        lambda account_id: users.RotateServiceAccountSecretRequest(service_account_id=account_id), _account_id
    ),
    "DeleteServiceAccount": at(
        lambda account_id: users.DeleteServiceAccountRequest(service_account_id=account_id), _account_id
    ),
    "CreateSigningKey": plain(lambda _: users.CreateSigningKeyRequest()),
    "ListSigningKeys": plain(lambda _: users.ListSigningKeysRequest()),
    "ActivateSigningKey": at(lambda kid: users.ActivateSigningKeyRequest(kid=kid), Belongings.waiting_key),
    "RetireSigningKey": at(lambda kid: users.RetireSigningKeyRequest(kid=kid), Belongings.waiting_key),
    "ListAuditEvents": plain(lambda _: users.ListAuditEventsRequest()),
}
_AGENT: dict[str, Request] = {
    "CreateAgent": plain(_draft),
    "GetAgent": at(lambda agent_id: agent.GetAgentRequest(id=agent_id), Belongings.agent_id),
    "ListAgents": plain(lambda _: agent.ListAgentsRequest()),
    "UpdateAgent": at(_patch, Belongings.agent_id),
    "DeleteAgent": at(lambda agent_id: agent.DeleteAgentRequest(id=agent_id), Belongings.agent_id),
    "UndeleteAgent": at(lambda agent_id: agent.UndeleteAgentRequest(id=agent_id), Belongings.deleted_agent_id),
    "ListAgentRevisions": at(lambda agent_id: agent.ListAgentRevisionsRequest(id=agent_id), Belongings.agent_id),
    "RollbackAgent": at(lambda agent_id: agent.RollbackAgentRequest(id=agent_id, revision=1), Belongings.agent_id),
}
_EXECUTION: dict[str, Request] = {
    "CreateExecution": at(
        lambda agent_id: execution.CreateExecutionRequest(agent_id=agent_id, input="hello"), Belongings.agent_id
    ),
    "RunExecution": at(
        lambda agent_id: execution.RunExecutionRequest(agent_id=agent_id, input="hello"), Belongings.agent_id
    ),
    "WatchExecution": at(lambda id_: execution.WatchExecutionRequest(id=id_), Belongings.execution_id),
    "GetExecution": at(lambda id_: execution.GetExecutionRequest(id=id_), Belongings.execution_id),
    "ListExecutions": plain(lambda _: execution.ListExecutionsRequest()),
    "CancelExecution": at(lambda id_: execution.CancelExecutionRequest(id=id_), Belongings.execution_id),
    "CheckFileReader": plain(
        lambda b: execution.CheckFileReaderRequest(file_id=str(uuid.uuid4()), user_id=str(b.user.id))
    ),
}
_FILE: dict[str, Request] = {
    "GetUploadLimits": plain(lambda _: file.GetUploadLimitsRequest()),
    "CreateUpload": plain(lambda _: file.CreateUploadRequest(start=file.UploadStart(filename="notes.txt"))),
    "GetUpload": at(lambda upload_id: file.GetUploadRequest(id=upload_id), Belongings.upload_id),
    "ListUploads": plain(lambda _: file.ListUploadsRequest()),
    "CancelUpload": at(lambda upload_id: file.CancelUploadRequest(id=upload_id), Belongings.upload_id),
    "UploadFile": plain(lambda _: _upload(file.UploadFileRequest)),
    "UploadFiles": plain(lambda _: _upload(file.UploadFilesRequest, key="a")),
    "DownloadFile": at(lambda file_id: file.DownloadFileRequest(id=file_id), Belongings.file_id),
    "GetFile": at(lambda file_id: file.GetFileRequest(id=file_id), Belongings.file_id),
    "ListFiles": plain(lambda _: file.ListFilesRequest()),
    "UpdateFile": at(_rename, Belongings.file_id),
    "DeleteFile": at(lambda file_id: file.DeleteFileRequest(id=file_id), Belongings.file_id),
    "UndeleteFile": at(lambda file_id: file.UndeleteFileRequest(id=file_id), Belongings.deleted_file_id),
    "PurgeFile": at(lambda file_id: file.PurgeFileRequest(id=file_id), Belongings.file_id),
}
_CHAT: dict[str, Request] = {
    "CreateRoom": plain(lambda _: chat.CreateRoomRequest(name="plans")),
    "GetRoom": at(lambda room_id: chat.GetRoomRequest(id=room_id), Belongings.room_id),
    "ListRooms": plain(lambda _: chat.ListRoomsRequest()),
    "JoinRoom": at(lambda room_id: chat.JoinRoomRequest(room_id=room_id), Belongings.room_id),
    "LeaveRoom": at(lambda room_id: chat.LeaveRoomRequest(room_id=room_id), Belongings.room_id),
    "ListMembers": at(lambda room_id: chat.ListMembersRequest(room_id=room_id), Belongings.room_id),
    "SendMessage": at(
        lambda room_id: chat.SendMessageRequest(room_id=room_id, client_message_id="2", text="hi"), Belongings.room_id
    ),
    "ListMessages": at(lambda room_id: chat.ListMessagesRequest(room_id=room_id), Belongings.room_id),
    "WatchRoom": at(lambda room_id: chat.WatchRoomRequest(room_id=room_id), Belongings.room_id),
    "Connect": _connect,
    "CheckFileReader": plain(lambda b: chat.CheckFileReaderRequest(file_id=str(uuid.uuid4()), user_id=str(b.user.id))),
}

REQUESTS: dict[str, Request] = {
    f"parley.{service}/{method}": request
    for service, methods in (
        ("auth.v1.AuthService", _AUTH),
        ("auth.v1.UserService", _USERS),
        ("agent.v1.AgentService", _AGENT),
        ("agent.v1.ExecutionService", _EXECUTION),
        ("file.v1.FileService", _FILE),
        ("chat.v1.ChatService", _CHAT),
    )
    for method, request in methods.items()
}
