"""`parley login` and `parley logout`."""

import asyncio
import os
import re
import socket
import sys
from typing import Annotated, Any

import typer

from services.cli.client.ending import EXIT_USAGE, Failed, NotSignedIn, ending
from services.cli.client.options import AGENT_PORT, FILE_PORT, ProfileName, Token

MAX_LABEL = 100


def login(
    email: Annotated[str, typer.Option(help="The address to sign in with; asked for if it is not given.")] = "",
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from the first line of stdin.")
    ] = False,
    target: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where auth is.", envvar="PARLEY_AUTH_TARGET")
    ] = "127.0.0.1:50051",
    agent_target: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help=f"Where agent is; by default on port {AGENT_PORT} of auth's host.",
            envvar="PARLEY_AGENT_TARGET",
        ),
    ] = "",
    file_target: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help=f"Where file is; by default on port {FILE_PORT} of auth's host.",
            envvar="PARLEY_FILE_TARGET",
        ),
    ] = "",
    profile: ProfileName = "default",
    token: Token = "",
) -> None:
    """Sign in. The session is kept in a file that only you can read, and refreshed whenever a command needs it."""
    from services.cli.client.profiles import Profile, config_folder

    with ending():
        place = Profile(config_folder(os.environ), profile)
        agent = agent_target or _beside(target)
        given = (email or _asked("Email", hidden=False), _first_line() if password_stdin else _asked("Password"))
        print(asyncio.run(_sign_in(place, *given, target, agent, file_target)))
    if token:
        sys.stderr.write("parley: PARLEY_TOKEN is set, and is used instead of this session\n")


def logout(profile: ProfileName = "default") -> None:
    """Sign out: the session ends, and its file is removed."""
    from services.cli.client.profiles import Profile, config_folder

    with ending():
        print(asyncio.run(_sign_out(Profile(config_folder(os.environ), profile))))


async def _sign_in(profile: Any, email: str, password: str, target: str, agent: str, file: str) -> str:
    from parley.auth.v1 import auth_service_pb2 as pb2
    from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
    from services.cli.client.calls import CALL_SECONDS, connected, failures
    from services.cli.client.credentials import with_tokens
    from services.cli.client.profiles import SignedIn

    label = f"parley on {socket.gethostname()}"[:MAX_LABEL]
    request = pb2.LoginRequest(email=email, password=password, device_label=label)
    async with connected(target) as channel:
        with failures(target):
            answer = await AuthServiceStub(channel).Login(request, timeout=CALL_SECONDS)
    session = SignedIn(answer.user.email, target, agent, "", 0.0, "", file)
    async with profile.locked():
        profile.write(with_tokens(session, answer.tokens))
    return f"signed in as {answer.user.email}"


async def _sign_out(profile: Any) -> str:
    from parley.auth.v1 import auth_service_pb2 as pb2
    from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
    from services.cli.client.caller import Caller
    from services.cli.client.calls import connected
    from services.cli.client.credentials import Session

    session = Session(profile)
    signed_in = session.signed_in()
    try:
        async with connected(signed_in.auth_target) as channel:
            caller = Caller(signed_in.auth_target, channel, session)
            await caller.call(AuthServiceStub(channel).Logout, pb2.LogoutRequest(scope=pb2.LOGOUT_SCOPE_CURRENT))
    except NotSignedIn:
        pass  # The session has ended before, which is what was asked for.
    async with profile.locked():
        profile.remove()
    return f"{signed_in.email} is signed out"


def _beside(target: str) -> str:
    """The address of agent on auth's host."""
    host = re.fullmatch(r"(.+):\d+", target)
    if host is None:
        raise Failed("--target must be HOST:PORT; for another address give --agent-target, too", code=EXIT_USAGE)
    return f"{host[1]}:{AGENT_PORT}"


def _first_line() -> str:
    return sys.stdin.readline().rstrip("\r\n")


def _asked(what: str, *, hidden: bool = True) -> str:
    if not sys.stdin.isatty():
        option = "--password-stdin" if hidden else "--email"
        raise Failed(f"there is no terminal to ask for the {what.lower()}: give {option}", code=EXIT_USAGE)
    return str(typer.prompt(what, hide_input=hidden))
