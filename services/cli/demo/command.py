"""The command: where the suite is, and the exit code."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer


def demo(
    host: Annotated[str, typer.Option(help="Where the suite runs.", envvar="PARLEY_LISTEN_HOST")] = "127.0.0.1",
    auth_port: Annotated[int, typer.Option(envvar="PARLEY_AUTH_PORT")] = 50051,
    agent_port: Annotated[int, typer.Option(envvar="PARLEY_AGENT_PORT")] = 50052,
    file_port: Annotated[int, typer.Option(envvar="PARLEY_FILE_PORT")] = 50053,
    chat_port: Annotated[int, typer.Option(envvar="PARLEY_CHAT_PORT")] = 50054,
    data_dir: Annotated[
        Path, typer.Option(help="The suite's data folder, with its mails.", envvar="PARLEY_DATA_DIR")
    ] = Path(".parley"),
    mail_dir: Annotated[
        Path | None, typer.Option(help="Where the suite's mails are found; by default `mail` in the data folder.")
    ] = None,
    smtp_listen: Annotated[
        str | None, typer.Option(help="HOST:PORT to receive mails on, when the suite sends them there by SMTP.")
    ] = None,
) -> None:
    """Show a running suite at work: people, agents, files and a room. It may be run any number of times."""
    # Not before: the command line describes itself without gRPC.
    from rich.console import Console

    from services.cli.demo.journey import travel
    from services.cli.demo.steps import NotRunning, Steps, WrongAnswer
    from services.cli.demo.suite import Addresses

    console = Console(highlight=False, soft_wrap=True)
    addresses = Addresses.on(host, auth=auth_port, agent=agent_port, file=file_port, chat=chat_port)
    mails = mail_dir or data_dir / "mail"
    try:
        asyncio.run(travel(addresses, Steps(console), mails, smtp_listen))
    except (NotRunning, WrongAnswer) as failure:
        console.print(f"parley demo: {failure}", style="red", markup=False)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
