"""`parley agent create` and `list`, on behalf of somebody who has signed in."""

import asyncio
import json
from pathlib import Path

import pytest

from parley.agent.v1 import agent_service_pb2 as pb2
from tests.auth import suite
from tests.cli.parley_process import Ended, Parley, Services

SYSTEM = "You write down what is said."
CREATE = ("agent", "create", "Scribe", "--model", "echo-1", "--system", SYSTEM)


async def agents_of(services: Services) -> list[pb2.Agent]:
    me = (await suite.sign_in(services.auth_stub)).metadata
    return list((await services.agent_stub.ListAgents(pb2.ListAgentsRequest(), metadata=me)).agents)


async def create(services: Services, *names: str) -> list[str]:
    me = (await suite.sign_in(services.auth_stub)).metadata
    made = []
    for name in names:
        request = pb2.CreateAgentRequest(name=name, model_name="echo-1", system_prompt=SYSTEM)
        made.append((await services.agent_stub.CreateAgent(request, metadata=me)).agent.id)
    return made


async def test_an_agent_is_created_and_its_id_is_said(signed_in: Parley, services: Services) -> None:
    ended = await signed_in.run(
        *CREATE, "--description", "writes", "--config", '{"temperature": 0.5, "tools": ["a.b"]}'
    )
    (agent,) = await agents_of(services)
    assert ended == Ended(0, f"{agent.id}\n", "")
    assert (agent.name, agent.model_name, agent.system_prompt) == ("Scribe", "echo-1", SYSTEM)
    assert agent.description == "writes"
    assert agent.config["temperature"] == 0.5
    assert agent.config["tools"] == ["a.b"]


async def test_texts_may_come_from_files(signed_in: Parley, services: Services, tmp_path: Path) -> None:
    system, config = tmp_path / "system.txt", tmp_path / "config.json"
    await asyncio.to_thread(system.write_text, "Sei kurz und höflich.\n")
    await asyncio.to_thread(config.write_text, '{"echo": {"repeat": 3}}')
    create = ("agent", "create", "Scribe", "--model", "echo-1")
    ended = await signed_in.run(*create, "--system", f"@{system}", "--config", f"@{config}", "--json")
    said = json.loads(ended.stdout)
    (agent,) = await agents_of(services)
    assert (said["id"], said["system_prompt"], said["config"]) == (
        agent.id,
        agent.system_prompt,
        {"echo": {"repeat": 3}},
    )
    assert agent.system_prompt == "Sei kurz und höflich.\n"
    assert (said["is_active"], said["revision"]) == (True, "1")


@pytest.mark.parametrize(
    ("arguments", "code", "lines"),
    [
        (
            ("Al", "--model", "", "--system", "Short."),
            1,
            ["name must be", "model_name must be", "system_prompt must be"],
        ),
        (("Scribe", "--model", "m", "--system", "@/no/file"), 2, ["/no/file cannot be read: No such file"]),
        ((*CREATE[2:], "--config", "{"), 2, ["--config is not JSON: "]),
        ((*CREATE[2:], "--config", "[]"), 2, ["--config must be a JSON object"]),
        ((*CREATE[2:], "--config", '{"a": 9007199254740993}'), 1, ["config must hold only numbers"]),
        ((*CREATE[2:], "--config", f'{{"a": {10**400}}}'), 2, ["--config holds a number that is too large"]),
        ((*CREATE[2:], "--config", '{"a": "\\ud800"}'), 2, ["what was given is not UTF-8"]),
        ((*CREATE[2:], "--config", f'{{"a": {"[" * 2000}{"]" * 2000}}}'), 2, ["--config has too many levels"]),
    ],
)
async def test_what_cannot_be_created_is_said_field_by_field(
    signed_in: Parley, services: Services, arguments: tuple[str, ...], code: int, lines: list[str]
) -> None:
    ended = await signed_in.run("agent", "create", *arguments)
    assert (ended.code, ended.stdout) == (code, "")
    said = ended.stderr.splitlines()
    assert len(said) == len(lines), ended.stderr
    for line, begins in zip(said, lines, strict=True):
        assert line.startswith(f"parley: {begins}")
    assert await agents_of(services) == []


async def test_all_pages_are_listed(signed_in: Parley, services: Services) -> None:
    ids = await create(services, *(f"agent {number}" for number in range(130)))
    ended = await signed_in.run("agent", "list", "--json")
    assert [json.loads(line)["id"] for line in ended.stdout.splitlines()] == ids[::-1]
    ended = await signed_in.run("agent", "list", "--json", "--limit", "110", "--order-by", "create_time")
    assert [json.loads(line)["id"] for line in ended.stdout.splitlines()] == ids[:110]
    ended = await signed_in.run("agent", "list", "--filter", 'name:"agent 12" AND is_active = true')
    heading, *lines = ended.stdout.splitlines()
    assert heading.split() == ["id", "name", "model", "active", "revision", "changed"]
    assert [line.split()[0] for line in lines] == [
        ids[n] for n in (129, 128, 127, 126, 125, 124, 123, 122, 121, 120, 12)
    ]


async def test_names_do_not_command_the_terminal(signed_in: Parley, services: Services) -> None:
    await create(services, "\x1b[31m[bold]red[/bold]\x07")
    ended = await signed_in.run("agent", "list")
    assert "\x1b" not in ended.stdout
    assert "[bold]red[/bold]" in ended.stdout


async def test_a_wrong_filter_is_said(signed_in: Parley) -> None:
    ended = await signed_in.run("agent", "list", "--filter", "shoe_size = 42")
    assert (ended.code, ended.stdout) == (1, "")
    assert ended.stderr.startswith("parley: filter at character 1: the fields are ")
