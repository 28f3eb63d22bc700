"""Somebody with a machine of his own, and services to call."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.parley_process import Parley, Services, running_services


@pytest.fixture
def parley(tmp_path: Path) -> Parley:
    return Parley(tmp_path / "config")


@pytest.fixture
async def services(settings: Callable[..., Any]) -> AsyncIterator[Services]:
    async with running_services(settings) as running:
        yield running


@pytest.fixture
async def signed_in(parley: Parley, services: Services) -> Parley:
    await parley.login(services.auth.address, services.agent.address)
    return parley
