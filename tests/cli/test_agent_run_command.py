"""`parley agent run`: the whole answer once, whatever breaks, and Ctrl-C."""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest

from parley.agent.v1 import agent_service_pb2
from parley.agent.v1 import execution_service_pb2 as pb2
from parley.agent.v1.execution_service_pb2_grpc import ExecutionServiceStub
from services.kit.errors import ShuttingDown, TokenExpired
from tests.auth import suite
from tests.cli.parley_process import Ended, Parley, Services
from tests.cli.relay import Relay
from tests.cli.scripted import Event, Said, Script, begins, delta

pytestmark = pytest.mark.slow

LONG = "every word of this takes its time " * 8
SYSTEM = "You write down what is said."


class Agents:
    """What the tests themselves do and see at the agent service."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._executions = ExecutionServiceStub(services.agent.channel)

    async def create(self, name: str = "Scribe", **fields: Any) -> str:
        request = agent_service_pb2.CreateAgentRequest(
            **{"name": name, "model_name": "echo-1", "system_prompt": SYSTEM, **fields}
        )
        created = await self._services.agent_stub.CreateAgent(request, metadata=await self._me())
        return str(created.agent.id)

    async def executions(self) -> list[pb2.Execution]:
        me = await self._me()
        listed = (await self._executions.ListExecutions(pb2.ListExecutionsRequest(), metadata=me)).executions
        return [
            (await self._executions.GetExecution(pb2.GetExecutionRequest(id=one.id), metadata=me)).execution
            for one in listed
        ]

    async def _me(self) -> Any:
        return (await suite.sign_in(self._services.auth_stub)).metadata


@pytest.fixture
def agents(services: Services) -> Agents:
    return Agents(services)


def notes(stderr: str) -> Sequence[str]:
    """What was said beside the answer, without the first line, which names the execution."""
    first, *rest = stderr.splitlines()
    assert first.startswith("execution ")
    return rest


async def test_the_answer_is_on_stdout_and_how_it_went_on_stderr(signed_in: Parley, agents: Agents) -> None:
    id_ = await agents.create()
    ended = await signed_in.run("agent", "run", id_, "Grüezi, 世界")
    (execution,) = await agents.executions()
    assert (ended.code, ended.stdout) == (0, "Grüezi, 世界\n")
    assert ended.stderr.splitlines()[0] == f"execution {execution.id}"
    (last,) = notes(ended.stderr)
    state, seconds, used = last.split(" · ")
    assert (state, used) == ("SUCCEEDED", "8 tokens in, 2 out")
    assert seconds.endswith(" s")


async def test_an_agent_is_known_by_its_name(signed_in: Parley, agents: Agents) -> None:
    await agents.create('The "quoted" \\ one')
    lower, exact, other = [await agents.create(name) for name in ("scribe", "Scribe", "SCRIBE")]
    assert (await signed_in.run("agent", "run", 'the "quoted" \\ ONE', "hello")).stdout == "hello\n"
    assert (await signed_in.run("agent", "run", "Scribe", "hello")).code == 0
    assert (await agents.executions())[0].agent_id == exact
    ambiguous = await signed_in.run("agent", "run", "sCRIBE", "hello")
    assert (ambiguous.code, ambiguous.stdout) == (1, "")
    said, *ids = ambiguous.stderr.splitlines()
    assert said == "parley: 3 agents are named sCRIBE: give the id of one"
    assert sorted(ids) == sorted(f"parley: {id_}" for id_ in (lower, exact, other))
    unknown = await signed_in.run("agent", "run", "Nobody", "hello")
    assert unknown == Ended(1, "", "parley: there is no agent named Nobody\n")


async def test_the_input_may_come_from_stdin(signed_in: Parley, agents: Agents) -> None:
    await agents.create()
    for arguments in (("-",), ()):
        ended = await signed_in.run("agent", "run", "Scribe", *arguments, stdin="line one\nline two\n")
        assert (ended.code, ended.stdout) == (0, "line one\nline two\n")


async def test_every_option_reaches_the_service(signed_in: Parley, agents: Agents) -> None:
    await agents.create()
    conversation = str(uuid4())
    limits = ("--max-tokens", "1000", "--timeout", "12.5", "--conversation", conversation)
    assert (await signed_in.run("agent", "run", "Scribe", "hello", *limits)).code == 0
    (execution,) = await agents.executions()
    assert execution.conversation_id == conversation
    assert execution.budget.max_tokens == 1000
    assert execution.budget.timeout.ToMilliseconds() == 12_500
    refused = await signed_in.run("agent", "run", "Scribe", "hello", "--file", "a-file", "--file", str(uuid4()))
    assert (refused.code, refused.stderr) == (1, "parley: file_ids[0] must be a valid UUID\n")


@pytest.mark.parametrize("seconds", ["0", "86401", "1e300", "inf", "nan"])
async def test_a_time_that_no_execution_may_take_is_a_wrong_usage(signed_in: Parley, seconds: str) -> None:
    ended = await signed_in.run("agent", "run", "Scribe", "hello", "--timeout", seconds)
    assert (ended.code, ended.stdout) == (2, "")
    assert "Traceback" not in ended.stderr


async def test_what_did_not_succeed_is_exit_1_with_what_there_is(signed_in: Parley, agents: Agents) -> None:
    await agents.create()
    ended = await signed_in.run("agent", "run", "Scribe", "one two three four", "--max-tokens", "2")
    assert (ended.code, ended.stdout) == (1, "one two \n")
    assert notes(ended.stderr)[-1].startswith("BUDGET_EXCEEDED: ")
    await agents.create("Lost", model_name="no-such-model")
    ended = await signed_in.run("agent", "run", "Lost", "hello")
    assert (ended.code, ended.stdout) == (1, "")
    assert ended.stderr.endswith("(MODEL_UNAVAILABLE)\n")


async def test_the_text_is_shown_on_a_terminal_as_it_comes(signed_in: Parley, agents: Agents) -> None:
    await agents.create(config={"echo": {"delay_ms": 200}})
    async with signed_in.terminal("agent", "run", "Scribe", "first second third fourth\x1b[2J fifth") as terminal:
        await terminal.until("first")
        assert "fifth" not in terminal.said
        assert await terminal.ended() == 0
    assert "first second third fourth\ufffd[2J fifth\r\n" in terminal.said
    assert "\x1b[2mexecution " in terminal.said  # dimmed


async def test_programs_get_json(signed_in: Parley, agents: Agents) -> None:
    await agents.create()
    ended = await signed_in.run("agent", "run", "Scribe", "one two", "--json")
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert (ended.code, ended.stderr) == (0, "")
    assert lines[0]["execution"]["state"] == "EXECUTION_STATE_QUEUED"
    assert lines[-1]["execution"]["output"] == "one two"
    events = [line["event"] for line in lines[1:-1]]
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    assert "".join(event["text_delta"]["text"] for event in events if "text_delta" in event) == "one two"


async def test_an_execution_can_be_followed_later_from_its_beginning_or_after_an_event(
    signed_in: Parley, agents: Agents
) -> None:
    await agents.create()
    await signed_in.run("agent", "run", "Scribe", "one two three")
    (execution,) = await agents.executions()
    again = await signed_in.run("agent", "run", "--resume", execution.id)
    assert (again.code, again.stdout) == (0, "one two three\n")
    rest = await signed_in.run("agent", "run", "--resume", execution.id, "--after", str(execution.last_sequence))
    assert (rest.code, rest.stdout) == (0, "")
    assert notes(rest.stderr)[-1].startswith("SUCCEEDED")
    for wrong in ((), ("Scribe", "hello", "--resume", execution.id)):
        ended = await signed_in.run("agent", "run", *wrong)
        assert ended == Ended(2, "", "parley: give either an agent, or an execution with --resume\n")
    unknown = await signed_in.run("agent", "run", "--resume", str(uuid4()))
    assert (unknown.code, unknown.stdout) == (1, "")
    assert unknown.stderr.endswith("(EXECUTION_NOT_FOUND)\n")


# Connections that break


async def test_a_connection_that_breaks_is_taken_up_where_it_was(
    signed_in: Parley, services: Services, agents: Agents
) -> None:
    await agents.create(config={"echo": {"delay_ms": 40}})
    async with Relay(services.agent.address).running() as relay:
        run = await signed_in.begin("agent", "run", "Scribe", LONG, "--json", PARLEY_AGENT_TARGET=relay.address)
        assert run.process.stdout
        for _ in range(3):
            for _ in range(4):
                assert await run.process.stdout.readline()
            relay.cut()
        await relay.go_away()
        await asyncio.sleep(0.5)
        await relay.come_back()
        ended = await run.ended()
    assert ended.code == 0
    assert json.loads(ended.stdout.splitlines()[-1])["execution"]["output"] == LONG
    assert relay.connections > 2
    assert f"nothing answers at {relay.address}; trying again" in ended.stderr
    assert len(await agents.executions()) == 1


async def test_the_whole_text_is_shown_once_although_the_connection_breaks(
    signed_in: Parley, services: Services, agents: Agents
) -> None:
    await agents.create(config={"echo": {"delay_ms": 40}})
    words = " ".join(f"word-{number}" for number in range(40))
    async with Relay(services.agent.address).running() as relay:
        options = ("--target", relay.address)
        async with signed_in.terminal("agent", "run", "Scribe", words, *options) as terminal:
            for shown in ("word-5 ", "word-20 "):
                await terminal.until(shown)
                relay.cut()
            assert await terminal.ended() == 0
    for number in range(40):
        assert terminal.said.count(f"word-{number} ") + terminal.said.count(f"word-{number}\r") == 1, number


async def test_a_token_that_expires_in_the_middle_is_renewed(signed_in: Parley) -> None:
    said: list[Said] = [
        begins(1),
        delta(0, "one "),
        TokenExpired(),
        delta(4, "two "),
        TokenExpired(),
        delta(8, "three"),
    ]
    async with Script(said, "one two three").running() as script:
        ended = await signed_in.run("agent", "run", str(uuid4()), "hello", "--target", script.address)
    assert (ended.code, ended.stdout) == (0, "one two three\n")
    assert script.asked_for == [2, 3]
    assert len(set(script.tokens)) == 3


async def test_a_new_token_that_is_refused_too_is_an_end(signed_in: Parley) -> None:
    async with Script([TokenExpired()] * 3, "").running() as script:
        ended = await signed_in.run("agent", "run", str(uuid4()), "hello", "--target", script.address)
    assert ended.code == 1
    assert ended.stderr.endswith("(TOKEN_EXPIRED)\n")
    assert len(script.tokens) <= 3


async def test_an_attempt_that_says_the_same_again_is_not_shown_twice(signed_in: Parley) -> None:
    said: list[Said] = [
        *(begins(1), delta(0, "Ünder "), delta(7, "way")),
        *(ShuttingDown(), begins(2), delta(0, "Ün"), delta(3, "der way, "), delta(12, "and on")),
    ]
    async with Script(said, "Ünder way, and on").running() as script:
        options = ("--target", script.address)
        async with signed_in.terminal("agent", "run", str(uuid4()), "hello", *options) as terminal:
            assert await terminal.ended() == 0
        piped = await signed_in.run("agent", "run", str(uuid4()), "hello", *options)
    assert "Ünder way" in terminal.said
    assert terminal.said.count("way") == 1
    assert ", and on\r\n" in terminal.said
    assert "begins again: attempt 2" in terminal.said
    assert "the answer begins again" not in terminal.said
    assert (piped.code, piped.stdout) == (0, "Ünder way, and on\n")


@pytest.mark.parametrize("later", [[delta(0, "two"), delta(3, " three")], [delta(0, "o")]], ids=["other", "less"])
async def test_an_attempt_that_says_something_else_takes_the_place_of_the_lost_one(
    signed_in: Parley, later: list[Said]
) -> None:
    text = "".join(event.text_delta.text for event in later if isinstance(event, Event))
    async with Script([begins(1), delta(0, "one"), begins(2), *later], text).running() as script:
        options = ("--target", script.address)
        async with signed_in.terminal("agent", "run", str(uuid4()), "hello", *options) as terminal:
            assert await terminal.ended() == 0
        piped = await signed_in.run("agent", "run", str(uuid4()), "hello", *options)
    _, _, shown = terminal.said.partition("the answer begins again")
    assert f"\r\n{text}\r\n" in shown
    assert (piped.code, piped.stdout) == (0, f"{text}\n")


async def test_events_that_are_no_longer_kept_leave_the_answer_whole(signed_in: Parley) -> None:
    said: list[Said] = [pb2.Gap(first_sequence=1, last_sequence=5), delta(4, "two")]
    async with Script(said, "one two").running() as script:
        ended = await signed_in.run("agent", "run", "--resume", script.id, "--target", script.address)
    assert (ended.code, ended.stdout) == (0, "one two\n")
    assert "the events 1 to 5 are no longer kept" in ended.stderr


async def test_tools_are_told_of_beside_the_answer(signed_in: Parley) -> None:
    call = Event(tool_call=Event.ToolCall(tool_call_id="1", name="kit__add"))
    call.tool_call.arguments["a"] = 2
    good = Event(tool_result=Event.ToolResult(tool_call_id="1", text="5\n\x1b[31m" + "x" * 1000))
    bad = Event(tool_result=Event.ToolResult(tool_call_id="2", text="no such tool", is_error=True))
    async with Script([begins(1), delta(0, "Let me see"), call, good, bad], "Let me see").running() as script:
        ended = await signed_in.run("agent", "run", str(uuid4()), "hello", "--target", script.address)
    assert (ended.code, ended.stdout) == (0, "Let me see\n")
    called, answered, failed, _ = notes(ended.stderr)
    assert called == '→ kit__add {"a": 2}'
    assert answered.startswith("← 5 \ufffd[31mxxx")
    assert len(answered) == 200
    assert failed == "✗ no such tool"


# Ctrl-C


async def test_ctrl_c_cancels_the_execution_and_shows_what_there_is(signed_in: Parley, agents: Agents) -> None:
    await agents.create(config={"echo": {"delay_ms": 50}})
    run = await signed_in.begin("agent", "run", "Scribe", LONG * 10)
    assert (await run.line()).startswith("execution ")
    async with asyncio.timeout(10):
        while not (await agents.executions())[0].output:
            pass
    run.interrupt()
    ended = await run.ended()
    (execution,) = await agents.executions()
    assert execution.state == pb2.EXECUTION_STATE_CANCELLED
    assert (ended.code, ended.stdout) == (130, f"{execution.output}\n")
    assert LONG.startswith(execution.output[:30])
    said, last = ended.stderr.splitlines()
    assert said == "it is being cancelled; Ctrl-C again leaves at once"
    assert last.startswith("CANCELLED")


async def test_ctrl_c_in_a_terminal_cancels_too(signed_in: Parley, agents: Agents) -> None:
    await agents.create(config={"echo": {"delay_ms": 50}})
    async with signed_in.terminal("agent", "run", "Scribe", LONG * 10) as terminal:
        await terminal.until("every word")
        terminal.type("\x03")
        assert await terminal.ended() == 130
    assert "CANCELLED" in terminal.said
    assert "Traceback" not in terminal.said


async def test_a_second_ctrl_c_leaves_at_once_although_nothing_answers(
    signed_in: Parley, services: Services, agents: Agents
) -> None:
    await agents.create(config={"echo": {"delay_ms": 50}})
    async with Relay(services.agent.address).running() as relay:
        run = await signed_in.begin("agent", "run", "Scribe", LONG * 10, "--target", relay.address)
        assert (await run.line()).startswith("execution ")
        relay.hold()
        run.interrupt()
        assert (await run.line()).startswith("it is being cancelled")
        begun = time.monotonic()
        run.interrupt()
        ended = await run.ended()
        assert time.monotonic() - begun < 2
    assert (ended.code, ended.stdout) == (130, "")


async def test_ctrl_c_while_the_service_is_away_cancels_when_it_is_back(
    signed_in: Parley, services: Services, agents: Agents
) -> None:
    await agents.create(config={"echo": {"delay_ms": 50}})
    async with Relay(services.agent.address).running() as relay:
        run = await signed_in.begin("agent", "run", "Scribe", LONG * 10, "--target", relay.address)
        assert (await run.line()).startswith("execution ")
        await relay.go_away()
        assert "trying again" in await run.line()
        run.interrupt()
        assert (await run.line()).startswith("it is being cancelled")
        await relay.come_back()
        ended = await run.ended()
    (execution,) = await agents.executions()
    assert execution.state == pb2.EXECUTION_STATE_CANCELLED
    assert ended.code == 130
