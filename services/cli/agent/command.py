"""The commands: what is read from the command line, and what is done with it."""

import asyncio
import json
import sys
import uuid
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.client.ending import EXIT_USAGE, Failed, ending
from services.cli.client.options import AgentTarget, AsJson, ProfileName, Token

agent = typer.Typer(
    name="agent",
    help="Your agents and their runs. `parley login` first, or set PARLEY_TOKEN.",
    no_args_is_help=True,
)


@agent.command()
def create(
    name: Annotated[str, typer.Argument(help="3 to 64 characters.")],
    model: Annotated[str, typer.Option(help="The model that runs it, such as `echo-1`.")],
    system: Annotated[str, typer.Option(metavar="TEXT|@FILE", help="What the model is told first.")],
    description: Annotated[str, typer.Option(help="For people.")] = "",
    config: Annotated[
        str, typer.Option(metavar="JSON|@FILE", help="Settings for the model and its tools, a JSON object.")
    ] = "",
    json_: AsJson = False,
    target: AgentTarget = "",
    profile: ProfileName = "default",
    token: Token = "",
) -> None:
    """Create an agent."""
    from parley.agent.v1 import agent_service_pb2 as pb2
    from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
    from services.cli.client.caller import calling_agent
    from services.cli.client.writing import as_json, print_json

    async def work() -> pb2.Agent:
        request = pb2.CreateAgentRequest(
            name=name,
            model_name=model,
            system_prompt=_text(system),
            description=description,
            request_id=str(uuid.uuid4()),
        )
        if config:
            _fill(request.config, _object(config))
        async with calling_agent(profile, target, token) as caller:
            return (await caller.call(AgentServiceStub(caller.channel).CreateAgent, request)).agent

    with ending():
        created = asyncio.run(work())
        if json_:
            print_json(as_json(created))
        else:
            print(created.id)


@agent.command("list")
def list_(
    filter_: Annotated[str, typer.Option("--filter", help='Which, such as `name:"scribe" AND is_active = true`.')] = "",
    order_by: Annotated[str, typer.Option(help="In which order, such as `name, update_time desc`.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="How many at the most.")] = None,
    json_: AsJson = False,
    target: AgentTarget = "",
    profile: ProfileName = "default",
    token: Token = "",
) -> None:
    """List your agents, newest first unless another order is asked for."""
    from services.cli.agent.agents import list_agents, print_table
    from services.cli.client.caller import calling_agent
    from services.cli.client.writing import as_json, print_json

    async def work() -> None:
        found = []
        async with calling_agent(profile, target, token) as caller:
            async for one in list_agents(caller, written_filter=filter_, order_by=order_by, limit=limit):
                if json_:
                    print_json(as_json(one))
                else:
                    found.append(one)
        if not json_:
            print_table(found)

    with ending():
        asyncio.run(work())


@agent.command()
def run(
    agent_: Annotated[str, typer.Argument(metavar="[AGENT]", help="The agent's id, or its name.")] = "",
    input_: Annotated[str, typer.Argument(metavar="[INPUT]", help="What it is told; `-` or nothing: stdin.")] = "-",
    file: Annotated[list[str] | None, typer.Option(metavar="ID", help="A file that belongs to the input.")] = None,
    conversation: Annotated[str, typer.Option(metavar="ID", help="A UUID: the conversation that this goes on.")] = "",
    max_tokens: Annotated[
        int, typer.Option(min=0, max=10_000_000, help="The most tokens of its answer; 0 for no limit.")
    ] = 0,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, max=86_400, help="The most seconds that it may take.")
    ] = None,
    resume: Annotated[str, typer.Option(metavar="ID", help="Follow this execution, instead of a new one.")] = "",
    after: Annotated[int, typer.Option(min=0, help="With --resume: only what came after this event.")] = 0,
    json_: AsJson = False,
    target: AgentTarget = "",
    profile: ProfileName = "default",
    token: Token = "",
) -> None:
    """Let an agent do something, and show its answer as it comes.

    The exit code is 0 if it succeeds and 1 otherwise. Ctrl-C cancels it, and shows what there is of it (130); a second
    one leaves at once. A connection that breaks is taken up again where it was.
    """
    from services.cli.agent.running import Task, run_or_resume
    from services.cli.client.caller import calling_agent

    async def work(told: str) -> int:
        async with calling_agent(profile, target, token) as caller:
            if resume:
                return await run_or_resume(caller, resume, after, json_=json_)
            task = Task(agent_, told, tuple(file or ()), conversation, max_tokens, timeout)
            return await run_or_resume(caller, task, 0, json_=json_)

    with ending():
        if bool(agent_) == bool(resume):
            raise Failed("give either an agent, or an execution with --resume", code=EXIT_USAGE)
        raise typer.Exit(asyncio.run(work("" if resume else _input(input_))))


def _input(given: str) -> str:
    if given != "-":
        return given
    if sys.stdin.isatty():
        sys.stderr.write("what is the agent told? (Ctrl-D ends it)\n")
    return sys.stdin.read()


def _text(given: str) -> str:
    """A text, or that of the file that is named after an @."""
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text()
    except OSError as error:
        raise Failed(f"{given[1:]} cannot be read: {error.strerror}", code=EXIT_USAGE) from error
    except UnicodeDecodeError as error:
        raise Failed(f"{given[1:]} is not UTF-8", code=EXIT_USAGE) from error


def _object(given: str) -> dict[str, Any]:
    try:
        value = json.loads(_text(given))
    except ValueError as error:
        raise Failed(f"--config is not JSON: {error}", code=EXIT_USAGE) from error
    except RecursionError as error:
        raise Failed("--config has too many levels", code=EXIT_USAGE) from error
    if not isinstance(value, dict):
        raise Failed("--config must be a JSON object", code=EXIT_USAGE)
    return value


def _fill(struct: Any, value: dict[str, Any]) -> None:
    from services.kit.structs import fill

    try:
        fill(struct, value)
    except OverflowError as error:
        raise Failed("--config holds a number that is too large", code=EXIT_USAGE) from error
