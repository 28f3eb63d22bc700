"""What administrators do with users, as long as they are administrators."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import grpc
import psycopg
import pytest

from parley.auth.v1 import auth_service_pb2
from parley.auth.v1 import user_service_pb2 as pb2
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from parley.auth.v1.user_service_pb2_grpc import UserServiceStub
from services.auth.settings import AuthSettings
from services.auth.wiring import open_administration, open_auth
from services.kit.database import libpq_url
from services.kit.ids import uuid7
from services.kit.purge import STEPS
from tests.conftest import Serve
from tests.support import Metadata, TestKeys, bearer, raises_status

PASSWORD = "correct horse battery staple"
Code = grpc.StatusCode
User = auth_service_pb2.User
State = auth_service_pb2.User.State
CHANGES = ("DisableUser", "EnableUser", "DeleteUser", "UndeleteUser", "PurgeUser")


class People:
    """Users who are signed in, by name: `people("ann")` is the metadata of ann's calls, `people.id("ann")` its id."""

    def __init__(self, url: str, keys: TestKeys) -> None:
        self._url = url
        self._keys = keys
        self._signed_in: dict[str, tuple[UUID, UUID]] = {}

    def __call__(self, name: str) -> Metadata:
        user_id, session_id = self._signed_in.get(name) or self.add(name)
        scope = "admin" if name.startswith("admin") else ""
        return bearer(self._keys.token(user_id, sid=str(session_id), scope=scope))

    def id(self, name: str) -> str:
        return str((self._signed_in.get(name) or self.add(name))[0])

    def add(self, name: str, **columns: Any) -> tuple[UUID, UUID]:
        """Somebody who has registered, with these columns, and has signed in."""
        user_id, session_id, now = uuid7(), uuid7(), datetime.now(UTC)
        values = {
            "id": user_id,
            "email": f"{name}@Example.com",
            "email_key": f"{name}@example.com",
            "full_name": name.title(),
            "password_hash": "",
            "create_time": now,
            "update_time": now,
            "is_admin": name.startswith("admin"),
            **columns,
        }
        self._signed_in[name] = user_id, session_id
        self.execute(
            f"INSERT INTO auth.users ({', '.join(values)}) VALUES ({', '.join(['%s'] * len(values))})",
            *values.values(),
        )
        self.execute(
            "INSERT INTO auth.sessions (id, user_id, device_label, create_time, expire_time)"
            " VALUES (%s, %s, '', now(), now() + interval '1 day')",
            session_id,
            user_id,
        )
        return user_id, session_id

    def execute(self, statement: str, *values: Any) -> Sequence[Any]:
        with psycopg.connect(self._url, autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def audit(self) -> list[tuple[str, str | None, str | None]]:
        """What was taken down of users: type, actor and subject."""
        names = {user_id: name for name, (user_id, _) in self._signed_in.items()}
        rows = self.execute(
            "SELECT type, actor_id, subject_id FROM auth.audit_events WHERE type LIKE 'USER_%%' ORDER BY id"
        )
        return [(kind, names.get(actor), names.get(subject)) for kind, actor, subject in rows]


@pytest.fixture
def people(database_url: str, keys: TestKeys) -> People:
    return People(libpq_url(database_url), keys)


@pytest.fixture
async def channel(serve: Serve, settings: Callable[..., Any]) -> grpc.aio.Channel:
    return await serve(open_auth, settings(AuthSettings, auth_deleted_user_days=7))


@pytest.fixture
def users(channel: grpc.aio.Channel) -> UserServiceStub:
    return UserServiceStub(channel)


Do = Callable[..., Any]


@pytest.fixture
def do(users: UserServiceStub, people: People) -> Do:
    """Calls one of the RPCs that are about one user, as an administrator."""

    async def do(rpc: str, name: str, by: str = "admin") -> User:
        request = getattr(pb2, f"{rpc}Request")(user_id=people.id(name))
        user: User = (await getattr(users, rpc)(request, metadata=people(by))).user
        return user

    return do


async def listed(users: UserServiceStub, who: Metadata, **fields: Any) -> list[str]:
    response = await users.ListUsers(pb2.ListUsersRequest(**fields), metadata=who)
    return [user.full_name for user in response.users]


async def test_only_administrators_may(users: UserServiceStub, people: People) -> None:
    victim = people.id("ann")
    for rpc in (*CHANGES, "GetUser"):
        with raises_status(Code.PERMISSION_DENIED, "ACCESS_DENIED"):
            await getattr(users, rpc)(getattr(pb2, f"{rpc}Request")(user_id=victim), metadata=people("bob"))
    with raises_status(Code.PERMISSION_DENIED, "ACCESS_DENIED"):
        await users.ListUsers(pb2.ListUsersRequest(), metadata=people("bob"))


async def test_a_token_of_somebody_who_is_no_administrator_any_more_opens_nothing(
    users: UserServiceStub, people: People, do: Do
) -> None:
    people("admin")
    people.execute("UPDATE auth.users SET is_admin = false")
    with raises_status(Code.PERMISSION_DENIED, "ACCESS_DENIED"):
        await do("DisableUser", "ann")
    with raises_status(Code.PERMISSION_DENIED, "ACCESS_DENIED"):
        await listed(users, people("admin"))
    people.execute("UPDATE auth.users SET is_admin = true")
    people.execute("UPDATE auth.sessions SET revoke_time = now()")
    for rpc in (*CHANGES, "GetUser"):
        with raises_status(Code.UNAUTHENTICATED, "SESSION_REVOKED"):
            await do(rpc, "ann")
    with raises_status(Code.UNAUTHENTICATED, "SESSION_REVOKED"):
        await listed(users, people("admin"))


async def test_every_state_and_how_it_is_left(do: Do, people: People) -> None:
    before = await do("GetUser", "ann")
    assert (before.state, before.HasField("disable_time")) == (State.STATE_ACTIVE, False)

    disabled = await do("DisableUser", "ann")
    assert disabled.state == State.STATE_DISABLED
    assert disabled.HasField("disable_time")
    assert disabled.etag != before.etag
    assert disabled.update_time.ToNanoseconds() > before.update_time.ToNanoseconds()
    assert await do("DisableUser", "ann") == disabled, "a repeat changes nothing"

    deleted = await do("DeleteUser", "ann")
    assert deleted.state == State.STATE_DELETED
    assert deleted.purge_time.ToDatetime() - deleted.delete_time.ToDatetime() == timedelta(days=7)
    assert await do("DeleteUser", "ann") == deleted, "the first deletion counts"

    undeleted = await do("UndeleteUser", "ann")
    assert undeleted.state == State.STATE_DISABLED, "disabled besides, it stays so"
    assert not undeleted.HasField("delete_time")
    assert not undeleted.HasField("purge_time")
    with raises_status(Code.FAILED_PRECONDITION, "USER_NOT_DELETED"):
        await do("UndeleteUser", "ann")

    enabled = await do("EnableUser", "ann")
    assert enabled.state == State.STATE_ACTIVE
    assert await do("EnableUser", "ann") == enabled

    # Somebody who is deleted can be disabled and enabled, too.
    await do("DeleteUser", "ann")
    assert (await do("DisableUser", "ann")).state == State.STATE_DELETED
    assert (await do("EnableUser", "ann")).state == State.STATE_DELETED
    assert (await do("UndeleteUser", "ann")).state == State.STATE_ACTIVE
    away_and_back = ["USER_DISABLED", "USER_DELETED", "USER_UNDELETED", "USER_ENABLED"]
    again = ["USER_DELETED", "USER_DISABLED", "USER_ENABLED", "USER_UNDELETED"]
    assert people.audit() == [(kind, "admin", "ann") for kind in [*away_and_back, *again]]


async def test_a_user_who_is_being_removed_stays_visible_and_cannot_be_saved(do: Do, people: People) -> None:
    for name, before in (("ann", ()), ("bob", ("DisableUser", "DeleteUser"))):
        for rpc in before:
            await do(rpc, name)
        purging = await do("PurgeUser", name)
        assert purging.state == State.STATE_PURGING
        assert purging.HasField("delete_time")
        assert purging.HasField("purge_time")
        assert await do("PurgeUser", name) == purging
        assert await do("GetUser", name) == purging
        for rpc in CHANGES[:-1]:
            with raises_status(Code.FAILED_PRECONDITION, "USER_PURGING"):
                await do(rpc, name)
    waiting = people.execute("SELECT task_name, args ->> 'user_id' FROM jobs.procrastinate_jobs ORDER BY id")
    assert waiting == [(STEPS[0], people.id("ann")), (STEPS[0], people.id("bob"))]
    assert people.audit()[-1] == ("USER_PURGE_REQUESTED", "admin", "bob")


async def test_who_is_kept_out_loses_its_sessions_at_once(channel: grpc.aio.Channel, do: Do, people: People) -> None:
    auth = AuthServiceStub(channel)
    for rpc in ("DisableUser", "DeleteUser", "PurgeUser"):
        name = f"kept-out-by-{rpc}"
        await auth.GetCurrentUser(auth_service_pb2.GetCurrentUserRequest(), metadata=people(name))
        await do(rpc, name)
        with raises_status(Code.UNAUTHENTICATED, "SESSION_REVOKED"):
            await auth.GetCurrentUser(auth_service_pb2.GetCurrentUserRequest(), metadata=people(name))
    subjects = people.execute(
        "SELECT subject_id::text, cardinality(session_ids) FROM auth.revocations ORDER BY sequence"
    )
    assert subjects == [(people.id(f"kept-out-by-{rpc}"), 1) for rpc in ("DisableUser", "DeleteUser", "PurgeUser")]


async def test_who_is_disabled_signs_in_again_only_when_it_is_enabled(
    serve: Serve, settings: Callable[..., Any]
) -> None:
    mine = settings(AuthSettings)
    async with open_administration(mine) as admins:
        await admins.create("root@example.com", PASSWORD, "Root")
        ann = await admins.create("ann@example.com", PASSWORD, "Ann")
    channel = await serve(open_auth, mine, own_keys=True)
    auth, users = AuthServiceStub(channel), UserServiceStub(channel)

    async def sign_in(email: str) -> auth_service_pb2.TokenPair:
        return (await auth.Login(auth_service_pb2.LoginRequest(email=email, password=PASSWORD))).tokens

    root, tokens = bearer((await sign_in("root@example.com")).access_token), await sign_in("ann@example.com")
    refresh = auth_service_pb2.RefreshTokenRequest(refresh_token=tokens.refresh_token)
    await users.DisableUser(pb2.DisableUserRequest(user_id=str(ann.id)), metadata=root)
    with raises_status(Code.PERMISSION_DENIED, "USER_DISABLED"):
        await sign_in("ann@example.com")
    with raises_status(Code.UNAUTHENTICATED, "SESSION_REVOKED"):
        await auth.RefreshToken(refresh)
    with raises_status(Code.UNAUTHENTICATED, "SESSION_REVOKED"):
        await auth.GetCurrentUser(auth_service_pb2.GetCurrentUserRequest(), metadata=bearer(tokens.access_token))
    await users.EnableUser(pb2.EnableUserRequest(user_id=str(ann.id)), metadata=root)
    with raises_status(Code.UNAUTHENTICATED, "SESSION_REVOKED"):
        await auth.RefreshToken(refresh)
    await sign_in("ann@example.com")


async def test_an_administrator_does_nothing_of_that_to_itself(do: Do, people: People) -> None:
    for rpc in ("DisableUser", "DeleteUser", "PurgeUser"):
        with raises_status(Code.FAILED_PRECONDITION, "OWN_ACCOUNT"):
            await do(rpc, "admin")
    assert (await do("EnableUser", "admin")).state == State.STATE_ACTIVE
    assert people.audit() == []


async def test_nobody_is_found_where_nobody_is(users: UserServiceStub, people: People) -> None:
    for rpc in (*CHANGES, "GetUser"):
        with raises_status(Code.NOT_FOUND, "USER_NOT_FOUND"):
            await getattr(users, rpc)(getattr(pb2, f"{rpc}Request")(user_id=str(uuid7())), metadata=people("admin"))
        with raises_status(Code.INVALID_ARGUMENT, "VALIDATION_FAILED", fields=["user_id"]):
            await getattr(users, rpc)(getattr(pb2, f"{rpc}Request")(user_id="ann"), metadata=people("admin"))


async def test_of_administrators_who_keep_each_other_out_only_one_can(do: Do, people: People) -> None:
    for round_ in range(6):
        one, other = f"admin-{round_}-one", f"admin-{round_}-other"
        people(one), people(other)
        done = await asyncio.gather(
            do("DisableUser", one, by=other),
            do("DeleteUser" if round_ % 2 else "PurgeUser", other, by=one),
            return_exceptions=True,
        )
        (refused,) = (answer for answer in done if isinstance(answer, BaseException))
        with raises_status(Code.UNAUTHENTICATED, "SESSION_REVOKED"):
            raise refused


async def test_many_changes_at_once_leave_one_after_the_other(do: Do, people: People) -> None:
    people("admin")
    rpcs = ["DisableUser", "EnableUser"] * 10
    await asyncio.gather(*(do(rpc, "ann") for rpc in rpcs))
    ((revision,),) = people.execute("SELECT revision FROM auth.users WHERE id = %s", people.id("ann"))
    assert len(people.audit()) == revision - 1


async def test_pages_go_from_the_newest_to_the_oldest(users: UserServiceStub, people: People) -> None:
    root = people("admin")
    for n in range(5):
        people.add(f"user-{n}")
    first = await users.ListUsers(pb2.ListUsersRequest(page_size=4), metadata=root)
    assert ([user.full_name for user in first.users], first.total_size) == (
        ["User-4", "User-3", "User-2", "User-1"],
        6,
    )
    request = pb2.ListUsersRequest(page_size=4, page_token=first.next_page_token)
    second = await users.ListUsers(request, metadata=root)
    assert ([user.full_name for user in second.users], second.next_page_token) == (["User-0", "Admin"], "")
    assert await listed(users, root, skip=4) == ["User-0", "Admin"]
    with raises_status(Code.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"):
        await listed(users, root, page_token=first.next_page_token, filter="is_admin = false")


async def test_filters_find_whom_they_describe(users: UserServiceStub, people: People) -> None:
    root, now = people("admin"), datetime.now(UTC)
    people.add("ann", email_verify_time=now, create_time=now - timedelta(days=100))
    people.add("bob", disable_time=now)
    people.add("cyd", delete_time=now, purge_time=now, disable_time=now)
    people.add("dan_%", delete_time=now, purge_time=now, purging=True)
    for written, expected in {
        "": ["Dan_%", "Cyd", "Bob", "Ann", "Admin"],
        'email = "ANN@example.com"': ["Ann"],
        "email = nn@example.com": [],
        "email:NN@EXAMPLE": ["Ann"],
        "full_name:_": ["Dan_%"],
        "full_name = bob": ["Bob"],
        "state = ACTIVE": ["Ann", "Admin"],
        'state = "DISABLED"': ["Bob"],
        "state = DELETED": ["Cyd"],
        "state = PURGING": ["Dan_%"],
        "state != ACTIVE AND state != PURGING": ["Cyd", "Bob"],
        "is_admin = true": ["Admin"],
        "email_verified = true": ["Ann"],
        "email_verified = false AND state = ACTIVE": ["Admin"],
        f'create_time < "{(now - timedelta(days=50)).isoformat()}"': ["Ann"],
    }.items():
        assert await listed(users, root, filter=written) == expected, written
        assert (await users.ListUsers(pb2.ListUsersRequest(filter=written), metadata=root)).total_size == len(expected)
    for wrong in ("password_hash = x", "state = GONE", "is_admin = yes", "email", "email = a OR email = b"):
        with raises_status(Code.INVALID_ARGUMENT, "FILTER_INVALID", fields=["filter"]):
            await listed(users, root, filter=wrong)
