"""`parley agent run`: an execution on the screen, and Ctrl-C."""

import asyncio
import signal
import uuid
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from parley.agent.v1 import execution_service_pb2 as pb2
from services.cli.agent.agents import find_agent
from services.cli.agent.following import Following
from services.cli.agent.screen import JsonScreen, Screen, TextScreen
from services.cli.client.caller import Caller
from services.cli.client.ending import EXIT_FAILED, EXIT_INTERRUPTED


@dataclass(frozen=True)
class Task:
    """What an agent is to do."""

    agent: str
    input: str
    file_ids: tuple[str, ...]
    conversation_id: str
    max_tokens: int
    seconds: float | None


async def run_or_resume(caller: Caller, what: Task | str, after: int, *, json_: bool) -> int:
    """Run a task, or follow the execution of an id after an event; the exit code. Raises Failed."""
    screen: Screen = JsonScreen() if json_ else TextScreen()
    if isinstance(what, str):
        following = Following(caller, screen, request=None, id_=what, after=after)
    else:
        following = Following(caller, screen, request=await _request(caller, what))
    presses = 0
    loop, me = asyncio.get_running_loop(), asyncio.current_task()
    assert me is not None

    def interrupt() -> None:
        nonlocal presses
        presses += 1
        if presses == 1:
            screen.note("it is being cancelled; Ctrl-C again leaves at once")
            following.cancel()
        else:
            me.cancel()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        execution = await following.to_the_end()
    except asyncio.CancelledError:
        return EXIT_INTERRUPTED
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    screen.ended(execution)
    if presses:
        return EXIT_INTERRUPTED
    return 0 if execution.state == pb2.EXECUTION_STATE_SUCCEEDED else EXIT_FAILED


async def _request(caller: Caller, task: Task) -> pb2.RunExecutionRequest:
    timeout = None
    if task.seconds is not None:
        timeout = Duration()
        timeout.FromMicroseconds(round(task.seconds * 1e6))
    return pb2.RunExecutionRequest(
        agent_id=await find_agent(caller, task.agent),
        input=task.input,
        file_ids=task.file_ids,
        conversation_id=task.conversation_id,
        budget=pb2.Budget(max_tokens=task.max_tokens, timeout=timeout),
        request_id=str(uuid.uuid4()),
    )
