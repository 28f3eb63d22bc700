"""A running auth service, and an SMTP server that its worker's mail goes to."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest

from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from services.auth.settings import AuthSettings
from services.auth.wiring import open_auth
from services.kit.database import libpq_url
from services.kit.ids import uuid7
from tests.auth.mailbox import Mailbox, receiving
from tests.conftest import AsUser, Serve
from tests.support import Metadata, TestKeys, bearer


@pytest.fixture
async def auth(serve: Serve, settings: Callable[..., Any]) -> AuthServiceStub:
    """A running auth service."""
    return AuthServiceStub(await serve(open_auth, settings(AuthSettings), own_keys=True))


@pytest.fixture
async def smtp() -> AsyncIterator[tuple[Mailbox, dict[str, Any]]]:
    """A real SMTP server, and the settings that lead to it."""
    async with receiving() as received:
        yield received


@pytest.fixture
def as_admin(as_user: AsUser, keys: TestKeys, database_url: str) -> Metadata:
    """The metadata of an administrator's calls, from a session that lives."""
    user_id, session_id = as_user.id("admin"), uuid7()
    with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        connection.execute("UPDATE auth.users SET is_admin = true WHERE id = %s", (user_id,))
        connection.execute(
            "INSERT INTO auth.sessions (id, user_id, device_label, create_time, expire_time)"
            " VALUES (%s, %s, '', now(), now() + interval '1 day')",
            (session_id, user_id),
        )
    return bearer(keys.admin_token(user_id, sid=str(session_id)))
