"""The `parley` command. Every command imports what it needs when it runs, so that `--help` is quick."""

import os
import runpy
from enum import StrEnum
from typing import Annotated

import typer

from services.cli.agent import agent
from services.cli.client.options import VARIABLES
from services.cli.client.sign_in import login, logout
from services.cli.demo import demo
from services.cli.files import download, upload
from services.cli.keys import keys
from services.cli.user import user
from services.cli.verify import files

app = typer.Typer(
    name="parley",
    help="Parley: identity, agents, files and rooms as four gRPC services over one PostgreSQL.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class ServiceName(StrEnum):
    """The four services."""

    auth = "auth"
    agent = "agent"
    file = "file"
    chat = "chat"


@app.command()
def up() -> None:
    """Run everything on this machine: PostgreSQL (unless PARLEY_DATABASE_URL is set), services and worker."""
    from services.cli.settings import SuiteSettings
    from services.cli.up import UpSettings
    from services.cli.up import up as run
    from services.kit.settings import load, warn_unknown_variables

    settings = load(SuiteSettings)
    warn_unknown_variables(
        (SuiteSettings,), {name: value for name, value in os.environ.items() if name not in VARIABLES}
    )
    raise typer.Exit(
        run(
            UpSettings(
                data_dir=settings.data_dir,
                listen_host=settings.listen_host,
                ports=settings.ports,
                database_url=settings.database_url.get_secret_value() if settings.database_url else None,
                database_roles=settings.database_roles,
                log_as_json=settings.log_format == "json",
            )
        )
    )


@app.command()
def serve(
    service: Annotated[ServiceName, typer.Argument(help="Which service.")],
    processes: Annotated[int, typer.Option(min=1, max=64, help="How many processes share the port.")] = 1,
) -> None:
    """Run one service until SIGTERM or Ctrl-C; calls in flight end first."""
    if processes > 1:
        from services.cli.serve_many import serve_many

        raise typer.Exit(serve_many(service.value, processes))
    runpy.run_module(f"services.{service.value}", run_name="__main__", alter_sys=True)


@app.command()
def worker() -> None:
    """Run background jobs until SIGTERM or Ctrl-C. Any number of workers may run at a time."""
    from services.cli.worker import run

    raise typer.Exit(run())


@app.command()
def migrate() -> None:
    """Bring the database to the newest revision. Safe to run several times at once."""
    from services.cli.migrate import run

    raise typer.Exit(run())


app.command()(demo)
app.command()(login)
app.command()(logout)
app.command()(upload)
app.command()(download)
app.add_typer(agent)
app.add_typer(files)
app.add_typer(keys)
app.add_typer(user)


def main() -> None:
    """The entry point of the `parley` script."""
    app()
