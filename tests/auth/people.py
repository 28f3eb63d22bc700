"""What somebody does who uses auth: register, sign in, stay so; and what the database then holds."""

from typing import Any

import psycopg

from parley.auth.v1 import auth_service_pb2 as pb2
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from tests.support import Metadata, bearer

EMAIL = "ann@example.com"
PASSWORD = "correct horse battery staple"
OTHER_PASSWORD = "a quiet walk to the harbour"
WRONG_PASSWORD = "not the password of anybody"


async def register(auth: AuthServiceStub, email: str = EMAIL, password: str = PASSWORD) -> pb2.User:
    """A user."""
    return (await auth.Register(pb2.RegisterRequest(email=email, password=password, full_name="Ann Arbor"))).user


async def login(
    auth: AuthServiceStub, email: str = EMAIL, password: str = PASSWORD, device_label: str = "laptop"
) -> pb2.LoginResponse:
    """A new session."""
    return await auth.Login(pb2.LoginRequest(email=email, password=password, device_label=device_label))


async def refresh(auth: AuthServiceStub, token: str, request_id: str = "") -> pb2.RefreshTokenResponse:
    """Exchange a refresh token."""
    return await auth.RefreshToken(pb2.RefreshTokenRequest(refresh_token=token, request_id=request_id))


def as_session(session: pb2.LoginResponse) -> Metadata:
    """The metadata of calls from a session."""
    return bearer(session.tokens.access_token)


async def sessions_of(auth: AuthServiceStub, me: Metadata) -> list[pb2.Session]:
    """The caller's sessions."""
    return list((await auth.ListSessions(pb2.ListSessionsRequest(), metadata=me)).sessions)


def execute(database_url: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """What the database answers."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []


def audited(database_url: str, kind: str) -> list[tuple[Any, ...]]:
    """The actor, subject, session and details of the events of a type, as text, oldest first."""
    return execute(
        database_url,
        "SELECT actor_id::text, subject_id::text, session_id::text, details FROM auth.audit_events"
        " WHERE type = %s ORDER BY id",
        kind,
    )
