"""Options that commands share."""

from typing import Annotated, TypeAlias

import typer

AGENT_PORT, FILE_PORT = 50052, 50053
VARIABLES = ("PARLEY_TOKEN", "PARLEY_AGENT_TARGET")
"""What these options are read from, besides settings of the services."""

ProfileName: TypeAlias = Annotated[str, typer.Option("--profile", metavar="NAME", help="Which of several sessions.")]
AgentTarget: TypeAlias = Annotated[
    str,
    typer.Option(
        "--target", metavar="HOST:PORT", help="Where agent is; by default as at login.", envvar="PARLEY_AGENT_TARGET"
    ),
]
FileTarget: TypeAlias = Annotated[
    str,
    typer.Option(
        "--target", metavar="HOST:PORT", help="Where file is; by default as at login.", envvar="PARLEY_FILE_TARGET"
    ),
]
# A token on a command line would be seen by every user of the machine, so the option is for its variable only.
Token: TypeAlias = Annotated[str, typer.Option("--token", envvar="PARLEY_TOKEN", hidden=True)]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Say it as JSON, an object a line.")]
