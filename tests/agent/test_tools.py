"""Tools of MCP servers: found by name, used over the network, and never why an execution hangs or breaks."""

import asyncio
import gc
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.agent.tools import ToolBox, ToolsUnavailable
from services.agent.tools.remote import McpTools
from services.agent.tools.results import MAX_TEXT_BYTES
from services.kit.settings import SettingUnusable
from tests.agent.tool_server import PNG, SilentServer, ToolServer, paged_server, tool_server
from tests.support import until

PROTOCOLS: dict[str, dict[str, bool]] = {
    "new": {},
    "new-json": {"as_json": True},
    "old": {"old_protocol": True},
    "old-json": {"old_protocol": True, "as_json": True},
}


@pytest.fixture(scope="module", params=PROTOCOLS)
def running_server(request: pytest.FixtureRequest) -> Iterator[ToolServer]:
    with tool_server(**PROTOCOLS[request.param]).running() as server:
        yield server


@pytest.fixture
def server(running_server: ToolServer) -> ToolServer:
    running_server.listens = True
    return running_server


@pytest.fixture
def nothing_unclosed() -> Iterator[None]:
    """What was not closed in the test warns when it is collected, and a warning is an error."""
    yield
    gc.collect()


@asynccontextmanager
async def opened(server: ToolServer, *names: str, call_seconds: float = 10.0) -> AsyncIterator[ToolBox]:
    """These tools of a server, of which nothing may be left afterwards."""
    before = asyncio.all_tasks()
    tools = McpTools({"kit": server.url}, call_seconds=call_seconds, connect_seconds=10.0)
    try:
        async with tools.open(names or ["kit.*"]) as box:
            yield box
    finally:
        assert asyncio.all_tasks() == before
        await until(lambda: server.connections == 0)


async def hears_of_it(server: ToolServer, name: str) -> None:
    """A tool that was given up on ends. A server that answers with one JSON does not notice that its client left."""
    if server.notices_leaving:
        await until(lambda: name not in server.hanging)


async def test_a_tool_is_used_by_the_name_in_its_spec(server: ToolServer) -> None:
    async with opened(server, "kit.add", "kit.upper") as box:
        add, upper = box.specs
        assert (add.name, add.description, upper.name) == ("kit__add", "Adds two integers.", "kit__upper")
        assert set(add.input_schema["properties"]) == {"a", "b"}
        answer = await box.use("kit__add", {"a": 2, "b": 3})
        assert (answer.text, answer.is_error) == ("5", False)
        assert (await box.use("kit__upper", {"text": "grüezi"})).text == "GRÜEZI"


async def test_a_star_is_every_tool_once(server: ToolServer) -> None:
    async with opened(server, "kit.upper", "kit.*") as box:
        names = [spec.name for spec in box.specs]
    assert names[0] == "kit__upper"
    assert len(names) == len(set(names)) == 11


async def test_all_pages_of_a_listing_are_read() -> None:
    names = [f"tool-{number}" for number in range(10)]
    with paged_server(names).running() as server:
        async with opened(server) as box:
            assert [spec.name for spec in box.specs] == [f"kit__{name}" for name in names]
            assert (await box.use("kit__tool-9", {})).text == "tool-9"


async def test_names_for_models_are_short_plain_and_different() -> None:
    long = "t" * 80
    names = ["a.b", "a/b", "a_b", long + "1", long + "2"]
    with paged_server(names).running() as server:
        async with opened(server) as box:
            spec_names = [spec.name for spec in box.specs]
            assert spec_names[:3] == ["kit__a_b", "kit__a_b_2", "kit__a_b_3"]
            assert {len(name) for name in spec_names[3:]} == {64}
            assert len(set(spec_names)) == len(names)
            assert [(await box.use(name, {})).text for name in spec_names] == names


async def test_several_servers_are_asked_at_once() -> None:
    with paged_server(["one"]).running() as left, paged_server(["one"]).running() as right:
        tools = McpTools({"left": left.url, "right": right.url}, call_seconds=5, connect_seconds=5)
        async with tools.open(["right.one", "left.*"]) as box:
            assert [spec.name for spec in box.specs] == ["right__one", "left__one"]
            answers = await asyncio.gather(box.use("left__one", {}), box.use("right__one", {}))
            assert [answer.text for answer in answers] == ["one", "one"]


async def test_no_names_are_no_tools() -> None:
    async with McpTools({}, call_seconds=1, connect_seconds=1).open([]) as box:
        assert box.specs == []


# What tools answer


async def test_structured_content_without_text_is_json(server: ToolServer) -> None:
    async with opened(server, "kit.structured") as box:
        answer = await box.use("kit__structured", {})
    assert json.loads(answer.text) == {"town": "Zürich", "degrees": 21.5}
    assert "Zürich" in answer.text


async def test_what_is_no_text_is_noted(server: ToolServer) -> None:
    async with opened(server, "kit.image", "kit.resources") as box:
        image = await box.use("kit__image", {})
        resources = await box.use("kit__resources", {})
    assert image.text == f"A picture:\n[image/png, {len(PNG)} bytes]\nof nothing"
    assert resources.text == "a note\n[application/pdf, 100 bytes]"


async def test_a_long_answer_is_cut_and_says_so(server: ToolServer) -> None:
    async with opened(server, "kit.big") as box:
        answer = await box.use("kit__big", {"size": 2**20})
        exact = await box.use("kit__big", {"size": MAX_TEXT_BYTES})
    assert MAX_TEXT_BYTES - 2 <= len(answer.text.encode()) <= MAX_TEXT_BYTES
    assert answer.text.startswith("ää")
    assert answer.text.endswith("ä\n[cut: this is the beginning of 1048576 bytes]")
    assert exact.text == "ä" * (MAX_TEXT_BYTES // 2)


async def test_an_answer_too_large_for_memory_is_refused_and_the_next_use_works(server: ToolServer) -> None:
    async with opened(server, "kit.big", "kit.add") as box:
        answer = await box.use("kit__big", {"size": 20 * 2**20})
        assert answer.is_error
        assert len(answer.text) < 1000
        assert (await box.use("kit__add", {"a": 1, "b": 1})).text == "2"


async def test_an_answer_can_be_stored(server: ToolServer) -> None:
    async with opened(server, "kit.upper") as box:
        answer = await box.use("kit__upper", {"text": "a\0b"})
    assert answer.text == "A\N{REPLACEMENT CHARACTER}B"


# What goes wrong is an answer


async def test_a_failing_tool_is_an_answer(server: ToolServer) -> None:
    async with opened(server, "kit.fails", "kit.breaks") as box:
        failure = await box.use("kit__fails", {"why": "no such customer"})
        fault = await box.use("kit__breaks", {})
    assert failure.is_error
    assert "no such customer" in failure.text
    assert fault.is_error


async def test_a_refusal_of_the_protocol_is_an_answer(server: ToolServer) -> None:
    async with opened(server, "kit.refuses") as box:
        answer = await box.use("kit__refuses", {})
    assert answer.is_error
    assert "not today" in answer.text


async def test_an_answer_that_breaks_the_tools_schema_is_an_answer() -> None:
    with paged_server(["liar"]).running() as server:
        async with opened(server) as box:
            answer = await box.use("kit__liar", {})
    assert (answer.text, answer.is_error) == ("kit.liar gave an answer that breaks its own rules.", True)


@pytest.mark.parametrize("arguments", [{}, {"a": "two", "b": 3}, {"a": 1, "b": object()}], ids=["none", "wrong", "odd"])
async def test_arguments_that_do_not_fit_are_an_answer(server: ToolServer, arguments: dict[str, Any]) -> None:
    async with opened(server, "kit.add") as box:
        assert (await box.use("kit__add", arguments)).is_error
        assert (await box.use("kit__add", {"a": 1, "b": 1})).text == "2"


@pytest.mark.parametrize("name", ["kit__lookup", "kit.add", ""])
async def test_an_unknown_tool_is_an_answer(server: ToolServer, name: str) -> None:
    async with opened(server, "kit.add") as box:
        answer = await box.use(name, {})
    assert answer.is_error
    assert answer.text == f"There is no tool {name}."


@pytest.mark.usefixtures("nothing_unclosed")
async def test_a_hanging_tool_is_given_up_on_and_the_next_use_works(server: ToolServer) -> None:
    async with opened(server, "kit.hangs", "kit.add", call_seconds=0.5) as box:
        begun = time.monotonic()
        answer = await box.use("kit__hangs", {"name": "slow"})
        assert 0.5 <= time.monotonic() - begun < 2
        assert (answer.text, answer.is_error) == ("kit.hangs did not answer within 0.5 seconds.", True)
        assert (await box.use("kit__add", {"a": 1, "b": 1})).text == "2"
        await hears_of_it(server, "slow")


async def test_a_hanging_tool_leaves_the_others_alone(server: ToolServer) -> None:
    async with opened(server, "kit.hangs", "kit.add", call_seconds=1) as box:
        hanging = asyncio.create_task(box.use("kit__hangs", {"name": "aside"}))
        await until(lambda: "aside" in server.hanging)
        for _ in range(3):
            assert (await box.use("kit__add", {"a": 1, "b": 1})).text == "2"
        assert (await hanging).is_error


@pytest.mark.usefixtures("nothing_unclosed")
async def test_a_lost_connection_is_an_answer_and_the_next_use_works(server: ToolServer) -> None:
    async with opened(server, "kit.hangs", "kit.add") as box:
        hanging = asyncio.create_task(box.use("kit__hangs", {"name": "lost"}))
        await until(lambda: "lost" in server.hanging)
        server.cut()
        async with asyncio.timeout(5):
            answer = await hanging
        assert answer.is_error
        assert answer.text.startswith("kit.hangs failed: ")
        assert (await box.use("kit__add", {"a": 1, "b": 1})).text == "2"


async def test_a_server_that_goes_away_is_an_answer() -> None:
    with tool_server().running() as server:
        tools = McpTools({"kit": server.url}, call_seconds=2, connect_seconds=2)
        async with tools.open(["kit.add"]) as box:
            assert (await box.use("kit__add", {"a": 1, "b": 1})).text == "2"
            server.close()
            for _ in range(2):
                answer = await box.use("kit__add", {"a": 1, "b": 1})
                assert answer.is_error


# Cancellation


@pytest.mark.usefixtures("nothing_unclosed")
async def test_a_use_can_be_cancelled_and_leaves_nothing(server: ToolServer) -> None:
    async def execution() -> None:
        async with opened(server, "kit.hangs") as box:
            await box.use("kit__hangs", {"name": "cancelled"})

    task = asyncio.create_task(execution())
    await until(lambda: "cancelled" in server.hanging)
    begun = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - begun < 1
    await hears_of_it(server, "cancelled")


@pytest.mark.usefixtures("nothing_unclosed")
async def test_a_server_that_does_not_hear_of_cancellations_holds_up_nobody() -> None:
    with tool_server(old_protocol=True).running() as server:
        async with opened(server, "kit.hangs", "kit.add") as box:
            uses = [asyncio.create_task(box.use("kit__hangs", {"name": name})) for name in ("one", "two")]
            await until(lambda: server.hanging == {"one", "two"})
            server.listens = False
            begun = time.monotonic()
            for use in uses:
                use.cancel()
            await asyncio.wait(uses)
            assert all(use.cancelled() for use in uses)
            assert time.monotonic() - begun < 1
            await until(lambda: server.ignored > 0)  # it was told, and the SDK waits for its answer
            server.listens = True
            assert (await box.use("kit__add", {"a": 1, "b": 1})).text == "2"
            assert time.monotonic() - begun < 3


@pytest.mark.usefixtures("nothing_unclosed")
async def test_a_block_is_left_although_the_server_does_not_listen(server: ToolServer) -> None:
    async with opened(server, "kit.add") as box:
        await box.use("kit__add", {"a": 1, "b": 1})
        server.listens = False
        begun = time.monotonic()
    assert time.monotonic() - begun < 3


@pytest.mark.usefixtures("nothing_unclosed")
async def test_opening_can_be_cancelled_and_leaves_nothing() -> None:
    async with SilentServer().running() as silent:
        before = asyncio.all_tasks()
        tools = McpTools({"kit": silent.url}, call_seconds=10, connect_seconds=10)

        async def execution() -> None:
            async with tools.open(["kit.*"]):
                raise AssertionError

        task = asyncio.create_task(execution())
        await until(lambda: len(silent.connections) == 1)
        begun = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - begun < 0.5
        assert asyncio.all_tasks() == before


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_unclosed")
async def test_leaving_can_be_cancelled_and_leaves_nothing(server: ToolServer) -> None:
    async def execution(leaving: asyncio.Event) -> None:
        async with opened(server, "kit.add"):
            server.listens = False
            leaving.set()

    leaving = asyncio.Event()
    task = asyncio.create_task(execution(leaving))
    await leaving.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.usefixtures("nothing_unclosed")
async def test_what_the_block_raises_comes_out_as_it_is(server: ToolServer) -> None:
    with pytest.raises(ZeroDivisionError):
        async with opened(server, "kit.add"):
            raise ZeroDivisionError


# What cannot be opened


async def test_a_server_that_is_not_there_is_named() -> None:
    with tool_server().running() as server:
        url = server.url
    tools = McpTools({"kit": url}, call_seconds=1, connect_seconds=5)
    with pytest.raises(ToolsUnavailable, match=r"^The tool server kit cannot be reached: ConnectError\.$"):
        async with tools.open(["kit.add"]):
            raise AssertionError


@pytest.mark.usefixtures("nothing_unclosed")
async def test_a_server_that_does_not_answer_is_waited_for_so_long() -> None:
    async with SilentServer().running() as silent:
        tools = McpTools({"kit": silent.url, "other": silent.url}, call_seconds=1, connect_seconds=0.5)
        begun = time.monotonic()
        with pytest.raises(ToolsUnavailable, match=r"^The tool server kit does not answer within 0\.5 seconds\.$"):
            async with tools.open(["kit.add", "other.add"]):
                raise AssertionError
        assert time.monotonic() - begun < 1.5


async def test_a_tool_that_the_server_lacks_is_named(server: ToolServer) -> None:
    with pytest.raises(ToolsUnavailable, match=r"^The tool server kit has no tool lookup\.$"):
        async with opened(server, "kit.add", "kit.lookup"):
            raise AssertionError


async def test_a_server_that_is_not_set_is_named() -> None:
    with pytest.raises(ToolsUnavailable, match=r"^There is no tool server crm\.$"):
        async with McpTools({}, call_seconds=1, connect_seconds=1).open(["crm.*"]):
            raise AssertionError


def test_servers_without_the_sdk_are_a_setting_that_is_of_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    assert McpTools({}, call_seconds=1, connect_seconds=1).servers == frozenset()
    with pytest.raises(SettingUnusable, match=r"^PARLEY_AGENT_MCP_SERVERS needs .*install `parley\[tools\]`$"):
        McpTools({"kit": "http://127.0.0.1/mcp"}, call_seconds=1, connect_seconds=1)
