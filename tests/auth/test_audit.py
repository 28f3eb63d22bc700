"""The audit log as administrators read it: newest first, filtered, in pages; and what is removed from it."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import grpc
import psycopg
import pytest

from parley.auth.v1 import user_service_pb2 as pb2
from parley.auth.v1.user_service_pb2_grpc import UserServiceStub
from services.auth.domain.audit import Audit
from services.auth.domain.chores import Chores
from services.auth.domain.throttle import Throttle
from services.auth.models.audit import AuditEvent, AuditType
from services.auth.repository.audit_events import AuditEvents
from services.auth.settings import AuthSettings
from services.auth.wiring import open_auth
from services.kit.database import Database
from services.kit.ids import utc_now, uuid7
from services.kit.origin import Origin
from tests.conftest import AsUser, Serve
from tests.support import Metadata, raises_status

Kind = pb2.AuditEvent.Type
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
HERE, THERE = Origin("192.0.2.7", "grpcurl"), Origin("2001:db8::1", "")


@pytest.fixture
async def users(serve: Serve, settings: Any) -> UserServiceStub:
    """What administrators call."""
    return UserServiceStub(await serve(open_auth, settings(AuthSettings)))


@pytest.fixture
def root(as_user: AsUser, database_url: str) -> Metadata:
    """An administrator with a session that lives."""
    session_id = uuid7()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE auth.users SET is_admin = true WHERE id = %s", (as_user.id("root"),))
        connection.execute(
            "INSERT INTO auth.sessions (id, user_id, device_label, create_time, expire_time)"
            " VALUES (%s, %s, '', now(), now() + interval '1 day')",
            (session_id, as_user.id("root")),
        )
    return as_user("root", scope="admin", sid=str(session_id))


async def record(database: Database, *events: tuple[AuditType, Origin, UUID | None, UUID | None, int]) -> None:
    """Take down events of these types, origins, actors and subjects, so many minutes after noon."""
    async with database.transaction() as tx:
        await AuditEvents(tx).add(
            [
                AuditEvent(uuid7(), kind, NOON + timedelta(minutes=at), actor, subject, None, *origin, {"n": str(at)})
                for kind, origin, actor, subject, at in events
            ]
        )


async def test_what_is_done_is_listed_newest_first(users: UserServiceStub, database: Database, root: Metadata) -> None:
    actor, subject, session = uuid7(), uuid7(), uuid7()
    async with database.transaction() as tx:
        await Audit(utc_now).record(tx, AuditType.SIGN_IN_FAILED, origin=HERE, reason="CREDENTIALS_INVALID")
        await Audit(utc_now).record(
            tx, AuditType.SESSION_REVOKED, origin=THERE, actor_id=actor, subject_id=subject, session_id=session
        )
    listed = await users.ListAuditEvents(pb2.ListAuditEventsRequest(), metadata=root)
    revoked, failed = (event for event in listed.audit_events if event.address)  # The server takes down its start.
    assert (revoked.type, revoked.address, revoked.user_agent) == (Kind.TYPE_SESSION_REVOKED, *THERE)
    assert (revoked.actor_id, revoked.subject_id, revoked.session_id) == (str(actor), str(subject), str(session))
    assert (failed.type, failed.address, failed.user_agent) == (Kind.TYPE_SIGN_IN_FAILED, *HERE)
    assert (failed.actor_id, failed.subject_id, failed.session_id) == ("", "", "")
    assert dict(failed.details) == {"reason": "CREDENTIALS_INVALID"}
    assert abs(failed.create_time.ToDatetime(UTC) - utc_now()) < timedelta(minutes=1)
    assert failed.create_time.ToDatetime(UTC) <= revoked.create_time.ToDatetime(UTC)


async def test_a_filter_lets_through_what_it_says(users: UserServiceStub, database: Database, root: Metadata) -> None:
    ann, bob = uuid7(), uuid7()
    await record(
        database,
        (AuditType.SIGN_IN_FAILED, HERE, None, ann, 0),
        (AuditType.SIGNED_IN, HERE, ann, ann, 1),
        (AuditType.SIGN_IN_FAILED, THERE, None, bob, 2),
        (AuditType.USER_DISABLED, THERE, bob, ann, 3),
    )
    around = 'create_time >= "2026-01-31T12:00:00Z" AND create_time < "2026-01-31T13:00:00Z"'
    for written, expected in {
        around: [3, 2, 1, 0],
        'type = "SIGN_IN_FAILED"': [2, 0],
        f'{around} AND type != "SIGN_IN_FAILED"': [3, 1],
        'type = "SIGN_IN_FAILED" AND address = "192.0.2.7"': [0],
        f"subject_id = {ann}": [3, 1, 0],
        f"subject_id = {ann} AND actor_id = {bob}": [3],
        f"session_id = {ann}": [],
        f"{around} AND create_time > 2026-01-31T12:01:00Z": [3, 2],
    }.items():
        listed = await users.ListAuditEvents(pb2.ListAuditEventsRequest(filter=written), metadata=root)
        assert [event.details["n"] for event in listed.audit_events] == [str(at) for at in expected], written
        assert listed.total_size == len(expected)
        assert listed.next_page_token == ""


async def test_pages_lead_through_what_a_filter_lets_through_and_through_nothing_else(
    users: UserServiceStub, database: Database, root: Metadata
) -> None:
    await record(
        database,
        *((kind, HERE, None, None, at) for at in range(7) for kind in (AuditType.SIGNED_IN, AuditType.SIGNED_OUT)),
    )
    request = pb2.ListAuditEventsRequest(page_size=3, filter="type = SIGNED_IN")
    seen, sizes = [], []
    while True:
        page = await users.ListAuditEvents(request, metadata=root)
        seen += [int(event.details["n"]) for event in page.audit_events]
        sizes.append((len(page.audit_events), page.total_size))
        assert {event.type for event in page.audit_events} == {Kind.TYPE_SIGNED_IN}
        # What comes meanwhile is before the first page.
        await record(database, (AuditType.SIGNED_IN, HERE, None, None, 99))
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == [6, 5, 4, 3, 2, 1, 0]
    assert sizes == [(3, 7), (3, 8), (1, 9)]
    request.filter = "type = SIGNED_OUT"
    with raises_status(grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"):
        await users.ListAuditEvents(request, metadata=root)
    behind_all = pb2.ListAuditEventsRequest(filter="type = SIGNED_OUT", skip=8)
    empty = await users.ListAuditEvents(behind_all, metadata=root)
    assert (list(empty.audit_events), empty.next_page_token, empty.total_size) == ([], "", 7)


async def test_a_filter_that_the_list_does_not_know_is_refused_with_the_place(
    users: UserServiceStub, root: Metadata
) -> None:
    for written in ("type = NOTHING", "details = x", "type : SIGNED", "type = SIGNED_IN OR type = SIGNED_OUT", "("):
        with raises_status(grpc.StatusCode.INVALID_ARGUMENT, "FILTER_INVALID", fields=["filter"]):
            await users.ListAuditEvents(pb2.ListAuditEventsRequest(filter=written), metadata=root)


async def test_only_who_is_an_administrator_now_reads_the_log(
    users: UserServiceStub, root: Metadata, as_user: AsUser, database_url: str
) -> None:
    with raises_status(grpc.StatusCode.PERMISSION_DENIED, "ACCESS_DENIED"):
        await users.ListAuditEvents(pb2.ListAuditEventsRequest(), metadata=as_user("ann"))
    await users.ListAuditEvents(pb2.ListAuditEventsRequest(), metadata=root)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE auth.users SET is_admin = false")
    with raises_status(grpc.StatusCode.PERMISSION_DENIED, "ACCESS_DENIED"):
        await users.ListAuditEvents(pb2.ListAuditEventsRequest(), metadata=root)


def test_every_type_that_is_taken_down_is_one_of_the_contract() -> None:
    assert {f"TYPE_{kind}" for kind in AuditType} | {"TYPE_UNSPECIFIED"} == set(Kind.keys())


OLD_AND_NEW = {
    "email_codes": """
        INSERT INTO auth.email_codes (user_id, purpose, code_hash, create_time, expire_time, tries)
        SELECT %(ann)s, minute::text, '', now(), now() + minute * interval '1 minute', 0
        FROM unnest(ARRAY[-1, 1]) minute
        """,
    "sessions": """
        INSERT INTO auth.sessions (id, user_id, device_label, create_time, expire_time)
        SELECT gen_random_uuid(), %(ann)s, '', now(), now() - day * interval '1 day' FROM unnest(ARRAY[29, 31]) day
        """,
    "revocations": """
        INSERT INTO auth.revocations (sequence, session_ids, subject_id, create_time, expire_time)
        SELECT hour, '{}', %(ann)s, now(), now() - hour * interval '1 hour' FROM unnest(ARRAY[23, 25]) hour
        """,
    "throttles": """
        INSERT INTO auth.throttles (key, failures, last_failure_time, retry_time)
        SELECT sha256(day::text::bytea), 5, now() - day * interval '1 day', now() - day * interval '1 day'
        FROM unnest(ARRAY[1, 100]) day
        """,
    "audit_events": """
        INSERT INTO auth.audit_events (id, type, create_time, address, user_agent, details)
        SELECT gen_random_uuid(), 'SIGNED_IN', now() - day * interval '1 day', '', '', '{}'
        FROM unnest(ARRAY[89, 91, 92]) day
        """,
    "signing_keys": """
        INSERT INTO auth.signing_keys (kid, public_key, private_key, create_time, retire_time, expire_time)
        SELECT minute::text, '', '', now(), now(), now() + minute * interval '1 minute' FROM unnest(ARRAY[-1, 1]) minute
        """,
    "service_secrets": """
        WITH account AS (
            INSERT INTO auth.service_accounts (id, name, methods, create_time)
            VALUES (gen_random_uuid(), 'reports', '{}', now()) RETURNING id
        )
        INSERT INTO auth.service_secrets (secret_hash, service_account_id, create_time, expire_time)
        SELECT sha256(minute::text::bytea), account.id, now(), now() + minute * interval '1 minute'
        FROM account, unnest(ARRAY[-1, 1]) minute
        """,
}


async def test_what_has_had_its_time_is_removed_and_nothing_else(
    database: Database, database_url: str, as_user: AsUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.auth.domain.chores.AUDIT_BATCH", 1)
    chores = Chores(database, Throttle(database, utc_now), utc_now, audit_kept=timedelta(days=90))
    with psycopg.connect(database_url, autocommit=True) as connection:
        for rows in OLD_AND_NEW.values():
            connection.execute(rows.encode(), {"ann": as_user.id("ann")})
        for _ in range(2):
            await chores.delete_expired()
            left = {
                table: connection.execute(f"SELECT count(*) FROM auth.{table}".encode()).fetchone()
                for table in OLD_AND_NEW
            }
            assert left == dict.fromkeys(OLD_AND_NEW, (1,))
