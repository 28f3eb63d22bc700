"""Who may call what: every RPC that the descriptors list, for every kind of caller, on objects of `user`.

The first answer of a stream counts. What each word means stands in MEANING.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.message import Message

from parley.common.v1 import access_pb2
from tests.conftest import Serve
from tests.requests_of import REQUESTS, Belongings
from tests.stage import Stage, all_rpcs, open_stage
from tests.support import Metadata, TestKeys, reason_of, status_of

MEANING = {
    "ok": (grpc.StatusCode.OK, ""),
    "unknown": (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"),
    "refused": (grpc.StatusCode.PERMISSION_DENIED, "ACCESS_DENIED"),
    "no-agent": (grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND"),
    "no-run": (grpc.StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND"),
    "no-file": (grpc.StatusCode.NOT_FOUND, "FILE_NOT_FOUND"),
    "no-upload": (grpc.StatusCode.NOT_FOUND, "UPLOAD_NOT_FOUND"),
    "no-session": (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"),
    "no-member": (grpc.StatusCode.FAILED_PRECONDITION, "NOT_A_MEMBER"),
    "no-code": (grpc.StatusCode.INVALID_ARGUMENT, "CODE_INVALID"),
}

# `service` has a token whose methods open everything there is; `idle` is a service whose list is empty. `other` is
# another user, and `admin` an administrator, both at what belongs to `user`.
TABLE = """
RPC                                         anonymous  user       other       service    idle       admin
auth.AuthService/Register                   ok         ok         ok          ok         ok         ok
auth.AuthService/Login                      ok         ok         ok          ok         ok         ok
auth.AuthService/RefreshToken               ok         ok         ok          ok         ok         ok
auth.AuthService/Logout                     unknown    ok         ok          refused    refused    ok
auth.AuthService/GetCurrentUser             unknown    ok         ok          refused    refused    ok
auth.AuthService/UpdateCurrentUser          unknown    ok         ok          refused    refused    ok
auth.AuthService/ChangePassword             unknown    ok         ok          refused    refused    ok
auth.AuthService/RequestPasswordReset       ok         ok         ok          ok         ok         ok
auth.AuthService/ResetPassword              ok         ok         ok          ok         ok         ok
auth.AuthService/RequestEmailVerification   unknown    ok         ok          refused    refused    ok
auth.AuthService/VerifyEmail                unknown    ok         no-code     refused    refused    no-code
auth.AuthService/ListSessions               unknown    ok         ok          refused    refused    ok
auth.AuthService/RevokeSession              unknown    ok         no-session  refused    refused    no-session
auth.AuthService/GetJwks                    ok         ok         ok          ok         ok         ok
auth.AuthService/SendWelcomeEmail           unknown    ok         ok          refused    refused    ok
auth.AuthService/IssueServiceToken          ok         ok         ok          ok         ok         ok
auth.AuthService/WatchRevocations           unknown    refused    refused     ok         refused    refused
auth.AuthService/RecordRefusals             unknown    refused    refused     ok         refused    refused
auth.UserService/ListUsers                  unknown    refused    refused     refused    refused    ok
auth.UserService/GetUser                    unknown    refused    refused     refused    refused    ok
auth.UserService/DisableUser                unknown    refused    refused     refused    refused    ok
auth.UserService/EnableUser                 unknown    refused    refused     refused    refused    ok
auth.UserService/DeleteUser                 unknown    refused    refused     refused    refused    ok
auth.UserService/UndeleteUser               unknown    refused    refused     refused    refused    ok
auth.UserService/PurgeUser                  unknown    refused    refused     refused    refused    ok
auth.UserService/CreateServiceAccount       unknown    refused    refused     refused    refused    ok
auth.UserService/ListServiceAccounts        unknown    refused    refused     refused    refused    ok
auth.UserService/RotateServiceAccountSecret unknown    refused    refused     refused    refused    ok
auth.UserService/DeleteServiceAccount       unknown    refused    refused     refused    refused    ok
auth.UserService/CreateSigningKey           unknown    refused    refused     refused    refused    ok
auth.UserService/ListSigningKeys            unknown    refused    refused     refused    refused    ok
auth.UserService/ActivateSigningKey         unknown    refused    refused     refused    refused    ok
auth.UserService/RetireSigningKey           unknown    refused    refused     refused    refused    ok
auth.UserService/ListAuditEvents            unknown    refused    refused     refused    refused    ok
agent.AgentService/CreateAgent              unknown    ok         ok          refused    refused    ok
agent.AgentService/GetAgent                 unknown    ok         no-agent    refused    refused    no-agent
agent.AgentService/ListAgents               unknown    ok         ok          refused    refused    ok
agent.AgentService/UpdateAgent              unknown    ok         no-agent    refused    refused    no-agent
agent.AgentService/DeleteAgent              unknown    ok         no-agent    refused    refused    no-agent
agent.AgentService/UndeleteAgent            unknown    ok         no-agent    refused    refused    no-agent
agent.AgentService/ListAgentRevisions       unknown    ok         no-agent    refused    refused    no-agent
agent.AgentService/RollbackAgent            unknown    ok         no-agent    refused    refused    no-agent
agent.ExecutionService/CreateExecution      unknown    ok         no-agent    refused    refused    no-agent
agent.ExecutionService/RunExecution         unknown    ok         no-agent    refused    refused    no-agent
agent.ExecutionService/WatchExecution       unknown    ok         no-run      refused    refused    no-run
agent.ExecutionService/GetExecution         unknown    ok         no-run      refused    refused    no-run
agent.ExecutionService/ListExecutions       unknown    ok         ok          refused    refused    ok
agent.ExecutionService/CancelExecution      unknown    ok         no-run      refused    refused    no-run
agent.ExecutionService/CheckFileReader      unknown    refused    refused     ok         refused    refused
file.FileService/GetUploadLimits            unknown    ok         ok          refused    refused    ok
file.FileService/CreateUpload               unknown    ok         ok          refused    refused    ok
file.FileService/GetUpload                  unknown    ok         no-upload   refused    refused    no-upload
file.FileService/ListUploads                unknown    ok         ok          refused    refused    ok
file.FileService/CancelUpload               unknown    ok         no-upload   refused    refused    no-upload
file.FileService/UploadFile                 unknown    ok         ok          refused    refused    ok
file.FileService/UploadFiles                unknown    ok         ok          refused    refused    ok
file.FileService/DownloadFile               unknown    ok         no-file     refused    refused    no-file
file.FileService/GetFile                    unknown    ok         no-file     refused    refused    no-file
file.FileService/ListFiles                  unknown    ok         ok          refused    refused    ok
file.FileService/UpdateFile                 unknown    ok         no-file     refused    refused    no-file
file.FileService/DeleteFile                 unknown    ok         no-file     refused    refused    no-file
file.FileService/UndeleteFile               unknown    ok         no-file     refused    refused    no-file
file.FileService/PurgeFile                  unknown    ok         no-file     refused    refused    no-file
chat.ChatService/CreateRoom                 unknown    ok         ok          refused    refused    ok
chat.ChatService/GetRoom                    unknown    ok         ok          refused    refused    ok
chat.ChatService/ListRooms                  unknown    ok         ok          refused    refused    ok
chat.ChatService/JoinRoom                   unknown    ok         ok          refused    refused    ok
chat.ChatService/LeaveRoom                  unknown    ok         no-member   refused    refused    no-member
chat.ChatService/ListMembers                unknown    ok         no-member   refused    refused    no-member
chat.ChatService/SendMessage                unknown    ok         no-member   refused    refused    no-member
chat.ChatService/ListMessages               unknown    ok         no-member   refused    refused    no-member
chat.ChatService/WatchRoom                  unknown    ok         no-member   refused    refused    no-member
chat.ChatService/Connect                    unknown    ok         ok          refused    refused    ok
chat.ChatService/CheckFileReader            unknown    refused    refused     ok         refused    refused
"""

Row = Mapping[str, str]
Found = tuple[grpc.StatusCode, str]


def expectations() -> Mapping[str, Row]:
    """The table, by RPC and caller."""
    heading, *lines = (line.split() for line in TABLE.strip().splitlines())
    rows = {f"parley.{rpc.replace('.', '.v1.')}": dict(zip(heading[1:], words, strict=True)) for rpc, *words in lines}
    assert len(rows) == len(lines), "an RPC is listed twice"
    return rows


def not_expected(rpcs: Mapping[str, object], rows: Mapping[str, object]) -> list[str]:
    """RPCs without an expectation, and expectations without an RPC."""
    return sorted(rpcs.keys() ^ rows.keys())


@pytest.fixture
async def stage(serve: Serve, settings: Callable[..., Any], database_url: str, keys: TestKeys) -> Any:
    """The four services on one database."""
    with psycopg.connect(database_url, autocommit=True) as rows:
        yield await open_stage(serve, settings, rows, keys)


def test_every_rpc_has_an_expectation_and_every_expectation_an_rpc() -> None:
    assert not_expected(all_rpcs(), expectations()) == []
    assert not_expected(all_rpcs(), REQUESTS) == []


def test_an_rpc_that_nobody_thought_of_is_noticed_and_so_is_one_that_is_gone() -> None:
    rpcs, rows = dict.fromkeys(all_rpcs()), expectations()
    assert not_expected({**rpcs, "parley.auth.v1.UserService/BecomeAdmin": None}, rows) == [
        "parley.auth.v1.UserService/BecomeAdmin"
    ]
    del rpcs["parley.chat.v1.ChatService/Connect"]
    assert not_expected(rpcs, rows) == ["parley.chat.v1.ChatService/Connect"]


@pytest.mark.parametrize("rpc", all_rpcs())
def test_the_table_says_what_the_access_in_the_protos_says(rpc: str) -> None:
    row = expectations()[rpc]
    refused = {caller for caller, word in row.items() if word in ("unknown", "refused")}
    everybody = {"anonymous", "user", "other", "service", "idle", "admin"}
    may_call = {
        access_pb2.ACCESS_PUBLIC: everybody,
        access_pb2.ACCESS_USER: {"user", "other", "admin"},
        access_pb2.ACCESS_SERVICE: {"service"},
        access_pb2.ACCESS_ADMIN: {"admin"},
    }[all_rpcs()[rpc].GetOptions().Extensions[access_pb2.access]]
    assert refused == everybody - may_call
    assert row["anonymous"] != "refused"


async def test_every_caller_gets_from_every_rpc_what_the_table_says(stage: Stage) -> None:
    services = {f"{name.split('/')[0]}/*" for name in all_rpcs()}
    callers: dict[str, Metadata | None] = {
        "anonymous": None,
        "service": stage.service(*services),
        "idle": stage.service(),
    }
    director = stage.person("director", admin=True)
    wrong = []
    for rpc, row in expectations().items():
        user, other, admin = stage.person("user"), stage.person("other"), stage.person("admin", admin=True)
        theirs = {**callers, "other": other.metadata, "user": user.metadata, "admin": admin.metadata}
        for caller, metadata in theirs.items():
            found = await _outcome(stage, rpc, REQUESTS[rpc], Belongings(stage, user, director), metadata)
            if found != MEANING[row[caller]]:
                code, reason = found
                wrong.append(f"{rpc} as {caller}: {code.name} {reason}, and should be {row[caller]}")
    assert wrong == [], "\n".join(wrong)


async def _outcome(
    stage: Stage,
    rpc: str,
    request: Callable[[Belongings], Awaitable[list[Message]]],
    belongings: Belongings,
    metadata: Metadata | None,
) -> Found:
    requests = await request(belongings)
    try:
        await stage.call(rpc, requests, metadata)
    except grpc.aio.AioRpcError as error:
        return error.code(), reason_of(status_of(error))
    return grpc.StatusCode.OK, ""
