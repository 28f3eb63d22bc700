"""A running auth service, and an SMTP server that its worker's mail goes to."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from services.auth.settings import AuthSettings
from services.auth.wiring import open_auth
from tests.auth.mailbox import Mailbox, receiving
from tests.conftest import Serve


@pytest.fixture
async def auth(serve: Serve, settings: Callable[..., Any]) -> AuthServiceStub:
    """A running auth service."""
    return AuthServiceStub(await serve(open_auth, settings(AuthSettings), own_keys=True))


@pytest.fixture
async def smtp() -> AsyncIterator[tuple[Mailbox, dict[str, Any]]]:
    """A real SMTP server, and the settings that lead to it."""
    async with receiving() as received:
        yield received
