"""`parley user`: who is an administrator, decided beside the running auth service."""

import sys
from typing import Annotated, Any, TypeAlias

import typer

# What `open_administration` gives: the command line sees a service through its wiring only.
Admins: TypeAlias = Any

EXIT_FAILED = 1
EXIT_USAGE = 2
_ANY_PASSWORD = "x" * 15

user = typer.Typer(
    name="user",
    help="Administrators. Run it with the settings of the auth service.",
    no_args_is_help=True,
)

Email = Annotated[str, typer.Option(help="The address that the user signs in with.")]


@user.command("create-admin")
def create_admin(
    email: Email,
    name: Annotated[str, typer.Option(help="The name to show of a new user; by default the address up to the @.")] = "",
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password of a new user from the first line of stdin.")
    ] = False,
) -> None:
    """Make a user an administrator. One that there is keeps its password; else a new one is registered."""
    from services.auth.settings import AuthSettings
    from services.auth.wiring import open_administration
    from services.cli.operation import operate

    full_name = name or email.partition("@")[0]
    _check(email, _ANY_PASSWORD, full_name)

    async def grant(admins: Admins) -> str:
        found = await admins.find(email)
        if found is None:
            return ""
        if found.is_admin:
            return f"{found.email} is an administrator already"
        granted = await admins.grant(email)
        return f"{granted.email} is an administrator now; its next sign-in or refresh gives it the rights"

    async def create(admins: Admins) -> str:
        created = await admins.create(email, password, full_name)
        return f"{created.email} is registered, and is an administrator"

    if said := operate("user", AuthSettings, open_administration, grant):
        print(said)
        return
    password = _first_line() if password_stdin else _asked()
    _check(email, password, full_name)
    print(operate("user", AuthSettings, open_administration, create))


@user.command("remove-admin")
def remove_admin(email: Email) -> None:
    """Let a user be no administrator any more. Its sessions end; it can sign in again."""
    from services.auth.settings import AuthSettings
    from services.auth.wiring import open_administration
    from services.cli.operation import operate

    async def remove(admins: Admins) -> tuple[str, int]:
        found = await admins.find(email)
        removed = await admins.remove(email)
        was = found is not None and found.is_admin
        said = "is no administrator any more, and its sessions have ended" if was else "is no administrator"
        return f"{removed.email} {said}", await admins.count()

    said, left = operate("user", AuthSettings, open_administration, remove)
    print(said)
    if not left:
        sys.stderr.write("parley: there is no administrator now: `parley user create-admin` makes one\n")


def _check(email: str, password: str, full_name: str) -> None:
    """End with what is wrong, by the rules of Register."""
    from parley.auth.v1 import auth_service_pb2
    from services.cli.operation import say
    from services.kit.errors import ValidationFailed
    from services.kit.messages import check

    try:
        check(auth_service_pb2.RegisterRequest(email=email, password=password, full_name=full_name))
    except ValidationFailed as failure:
        say(failure)
        raise typer.Exit(EXIT_FAILED) from None


def _first_line() -> str:
    return sys.stdin.readline().rstrip("\r\n")


def _asked() -> str:
    if not sys.stdin.isatty():
        sys.stderr.write("parley: there is no terminal to ask for the password: give it with --password-stdin\n")
        raise typer.Exit(EXIT_USAGE)
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt="Once more"))
