"""`parley login` and `parley logout`: a session that is kept safely, and stays good by itself."""

import asyncio
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from parley.auth.v1 import auth_service_pb2 as pb2
from services.cli.client.profiles import SignedIn
from services.kit.database import libpq_url
from tests.auth.people import EMAIL, PASSWORD, WRONG_PASSWORD, execute, login, sessions_of
from tests.cli.parley_process import Ended, Parley, Services
from tests.support import bearer, raises_status

pytestmark = pytest.mark.slow

Execute = Callable[..., list[tuple[Any, ...]]]
NOT_SIGNED_IN = Ended(1, "", "parley: nobody is signed in: run `parley login`\n")
SESSION_ENDED = Ended(1, "", "parley: the session has ended: run `parley login`\n")
NO_AGENTS = "id  name  model  active  revision  changed\n"


@pytest.fixture
def rows(database_url: str) -> Execute:
    return lambda statement, *values: execute(libpq_url(database_url), statement, *values)


def kept(parley: Parley, profile: str = "default") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((parley.folder / f"{profile}.json").read_text())
    return found


def write(parley: Parley, content: str) -> Path:
    parley.folder.mkdir(parents=True, exist_ok=True)
    path = parley.folder / "default.json"
    path.write_text(content)
    return path


def change(parley: Parley, **values: Any) -> None:
    write(parley, json.dumps(kept(parley) | values))


async def test_a_session_is_kept_where_only_its_owner_can_read_it_and_ended(
    signed_in: Parley, services: Services
) -> None:
    path = signed_in.folder / "default.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert signed_in.folder.stat().st_mode & 0o777 == 0o700
    assert {file.name for file in signed_in.folder.iterdir()} == {"default.json", "default.lock"}
    token = kept(signed_in)["access_token"]
    (session,) = await sessions_of(services.auth_stub, bearer(token))
    assert session.device_label == f"parley on {socket.gethostname()}"
    assert await signed_in.run("agent", "list") == Ended(0, NO_AGENTS, "")

    assert await signed_in.run("logout") == Ended(0, f"{EMAIL} is signed out\n", "")
    assert not path.exists()
    with raises_status(StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
        await sessions_of(services.auth_stub, bearer(token))
    for command in (("agent", "list"), ("logout",)):
        assert await signed_in.run(*command) == NOT_SIGNED_IN


async def test_address_and_password_are_asked_for_on_a_terminal_and_the_password_is_not_shown(
    parley: Parley, services: Services
) -> None:
    targets = ("--target", services.auth.address)
    async with parley.terminal("login", *targets) as terminal:
        await terminal.until("Email: ")
        terminal.type(f"{EMAIL}\n")
        await terminal.until("Password: ")
        terminal.type(f"{PASSWORD}\n")
        assert await terminal.ended() == 0
    assert f"signed in as {EMAIL}" in terminal.said
    assert "horse" not in terminal.said
    assert kept(parley)["agent_target"] == services.auth.address.rpartition(":")[0] + ":50052"


async def test_where_file_is_can_be_said_at_login_and_is_beside_auth_otherwise(
    signed_in: Parley, services: Services
) -> None:
    host, _, _ = services.auth.address.rpartition(":")
    assert SignedIn(**kept(signed_in)).target_of("file") == f"{host}:50053"
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"127.0.0.1:{closed.getsockname()[1]}"
    await signed_in.login(services.auth.address, services.agent.address, "--file-target", nobody)
    assert await signed_in.run("upload", __file__) == Ended(1, "", f"parley: nothing answers at {nobody}\n")
    change(signed_in, file_target="", auth_target="unix:/nowhere")
    unknown = "parley: where file is is not known: give --target\n"
    assert await signed_in.run("upload", __file__) == Ended(2, "", unknown)


async def test_sessions_are_kept_apart_by_profile(signed_in: Parley, services: Services) -> None:
    await signed_in.login(services.auth.address, services.agent.address, "--profile", "work")
    assert kept(signed_in, "work")["refresh_token"] != kept(signed_in)["refresh_token"]
    assert (await signed_in.run("logout")).code == 0
    assert (await signed_in.run("agent", "list", "--profile", "work")).code == 0
    ended = await signed_in.run("agent", "list", "--profile", "home")
    assert ended == Ended(1, "", "parley: nobody is signed in: run `parley login --profile home`\n")


async def test_what_cannot_be_done_is_one_clear_line_and_an_exit_code(parley: Parley, services: Services) -> None:
    login_ = ("login", "--email", EMAIL, "--password-stdin", "--target")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"127.0.0.1:{closed.getsockname()[1]}"
    refused = {
        "wrong password": (parley.run(*login_, services.auth.address, stdin=WRONG_PASSWORD), 1, "The address and the"),
        "nobody there": (parley.run(*login_, nobody, stdin=PASSWORD), 1, f"nothing answers at {nobody}"),
        "no terminal": (parley.run("login", "--email", EMAIL), 2, "there is no terminal to ask for the password: give"),
        "no port": (parley.run(*login_, "localhost", stdin=PASSWORD), 2, "--target must be HOST:PORT"),
        "no name": (parley.run("logout", "--profile", "../x"), 2, "a profile's name has 1 to 64"),
    }
    ended = await asyncio.gather(*(running for running, _, _ in refused.values()))
    for (what, (_, code, says)), end in zip(refused.items(), ended, strict=True):
        assert (end.code, end.stdout) == (code, ""), what
        (line,) = end.stderr.splitlines()
        assert line.startswith(f"parley: {says}"), what
    assert not list(parley.folder.glob("*.json"))


async def test_a_service_that_is_away_is_one_line_with_its_address(signed_in: Parley, services: Services) -> None:
    await services.agent.stop()
    nothing = f"parley: nothing answers at {services.agent.address}\n"
    assert await signed_in.run("agent", "list") == Ended(1, "", nothing)
    assert await signed_in.run("agent", "run", "Scribe", "hello") == Ended(1, "", nothing)
    await services.auth.stop()
    nothing = f"parley: nothing answers at {services.auth.address}\n"
    assert await signed_in.run("logout") == Ended(1, "", nothing)
    assert kept(signed_in)["email"] == EMAIL


async def test_an_expired_token_is_refreshed_once_by_commands_that_run_at_once(
    signed_in: Parley, rows: Execute
) -> None:
    before = kept(signed_in)
    change(signed_in, access_expires=time.time() + 20)
    ended = await asyncio.gather(*(signed_in.run("agent", "list") for _ in range(4)))
    assert ended == [Ended(0, NO_AGENTS, "")] * 4
    after = kept(signed_in)
    assert after["refresh_token"] != before["refresh_token"]
    assert after["access_expires"] > time.time() + 60
    assert (signed_in.folder / "default.json").stat().st_mode & 0o777 == 0o600
    assert rows("SELECT count(*) FROM auth.refresh_tokens") == [(2,)]


async def test_a_token_that_is_refused_before_its_time_is_refreshed(signed_in: Parley) -> None:
    change(signed_in, access_token="not.a.token")
    assert await signed_in.run("agent", "list") == Ended(0, NO_AGENTS, "")
    assert kept(signed_in)["access_token"] != "not.a.token"


async def test_an_exchange_whose_answer_was_lost_is_made_again(signed_in: Parley, rows: Execute) -> None:
    before = kept(signed_in)
    change(signed_in, access_expires=0)
    assert (await signed_in.run("agent", "list")).code == 0
    # As if the command had died before it could write down what it got; and not just now.
    change(signed_in, **before | {"access_expires": 0})
    rows("UPDATE auth.refresh_tokens SET exchange_time = exchange_time - interval '1 hour'")
    assert (await signed_in.run("agent", "list")).code == 0
    assert rows("SELECT count(*) FROM auth.sessions WHERE revoke_time IS NULL") == [(1,)]


@pytest.mark.parametrize("changed", [{}, {"access_expires": 0}], ids=["before", "after"])
async def test_a_session_that_was_ended_elsewhere_is_told_of_before_and_after_its_token_expires(
    signed_in: Parley, services: Services, changed: dict[str, int]
) -> None:
    me = bearer((await login(services.auth_stub)).tokens.access_token)
    await services.auth_stub.Logout(pb2.LogoutRequest(scope=pb2.LOGOUT_SCOPE_ALL), metadata=me)
    change(signed_in, **changed)
    async with asyncio.timeout(10):
        while (ended := await signed_in.run("agent", "list")).code == 0:
            pass  # The agent service takes up to 5 seconds to hear of it.
    assert ended == SESSION_ENDED
    assert await signed_in.run("logout") == Ended(0, f"{EMAIL} is signed out\n", "")


async def test_a_token_in_the_environment_is_used_instead(parley: Parley, services: Services) -> None:
    token = (await login(services.auth_stub)).tokens.access_token
    given = {"PARLEY_TOKEN": token, "PARLEY_AGENT_TARGET": services.agent.address}
    assert await parley.run("agent", "list", **given) == Ended(0, NO_AGENTS, "")
    refused = await parley.run("agent", "list", **given | {"PARLEY_TOKEN": "not.a.token"})
    assert refused == Ended(1, "", "parley: PARLEY_TOKEN is not taken: it is invalid or has expired\n")
    assert not parley.folder.exists()


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"email": 1}', "\x00"])
async def test_a_file_that_holds_no_session_is_told_of(parley: Parley, content: str) -> None:
    path = write(parley, content)
    said = f"parley: {path} holds no session: remove it, and run `parley login`\n"
    assert await parley.run("agent", "list") == Ended(1, "", said)
