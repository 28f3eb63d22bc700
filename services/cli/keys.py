"""`parley keys`: the keys that sign access tokens, worked on beside the running auth service."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, TypeAlias

import typer

# What `open_signing_keys` gives: the command line sees a service through its wiring only.
SigningKeys: TypeAlias = Any

LOOK_SECONDS = 0.2
TABLE_WIDTH = 160

keys = typer.Typer(
    name="keys",
    help="The keys that sign access tokens. Run it with the settings of the auth service.",
    no_args_is_help=True,
)


@keys.command("list")
def list_keys() -> None:
    """Say which keys there are: the one that signs, perhaps one that waits, and those whose tokens are still good."""
    _operate(_list)


@keys.command()
def rotate(
    now: Annotated[
        bool, typer.Option("--now", help="Somebody else may have the key: replace it now, and refuse all its tokens.")
    ] = False,
) -> None:
    """Sign with a new key, without refusing a single token: it begins when every service can have the new key.

    That takes a little more than PARLEY_AUTH_JWKS_SECONDS. It may be broken off: the next time goes on from there.
    """
    _operate(_replace if now else _rotate)


def _operate(work: Callable[[SigningKeys], Awaitable[None]]) -> None:
    from services.auth.settings import AuthSettings
    from services.auth.wiring import open_signing_keys
    from services.cli.operation import operate

    operate("keys", AuthSettings, open_signing_keys, work)


async def _list(keys: SigningKeys) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("key", "state", "made", "signs since", "retired", "gone after", box=None, pad_edge=False)
    for key in await keys.list_signing_keys():
        times = (key.create_time, key.activate_time, key.retire_time, key.expire_time)
        table.add_row(key.kid, key.state.lower(), *(_written(time) if time else "" for time in times))
    # As wide as it is, whatever the terminal: a key's name is to be copied.
    Console(highlight=False, width=TABLE_WIDTH).print(table)


async def _rotate(keys: SigningKeys) -> None:
    key = await keys.create_signing_key()
    ready_time = keys.ready_time(key)
    print(f"key {key.kid} is published, and can sign from {_written(ready_time)} on")
    try:
        await _wait_until(ready_time)
    except asyncio.CancelledError:
        print("broken off: the key stays published, and the next `parley keys rotate` goes on with it")
        raise
    activated = await keys.activate_signing_key(key.kid)
    print(f"key {activated.kid} signs")
    for other in await keys.list_signing_keys():
        if other.expire_time is not None:
            print(f"key {other.kid} is retired; its last token expires before {_written(other.expire_time)}")


async def _replace(keys: SigningKeys) -> None:
    key = await keys.replace_signing_keys()
    print(f"key {key.kid} signs, and all other keys are gone")
    print("tokens that they have signed are refused from now on, as soon as each service has asked for the keys again;")
    print("whoever is signed in goes on by refreshing, without signing in again")


async def _wait_until(moment: datetime) -> None:
    """Return at that moment; meanwhile show how far it is, where there is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    from services.kit.ids import utc_now

    console = Console()
    left = (moment - utc_now()).total_seconds()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("every service gets the key", total=max(left, 0.001))
        while (left_now := (moment - utc_now()).total_seconds()) > 0:
            progress.update(bar, completed=left - left_now)
            await asyncio.sleep(min(LOOK_SECONDS, left_now))


def _written(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
