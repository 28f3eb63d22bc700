"""`parley upload`: every file once and whole, whatever breaks, and no byte sent again that the server has."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from services.file.errors import UploadTakenOver
from services.kit.errors import Overloaded, ShuttingDown, TokenExpired
from tests.cli.parley_process import Ended, Parley, Running
from tests.cli.relay import Relay
from tests.cli.scripted_files import PART, Fault, ScriptedFiles
from tests.support import until

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
DATA = os.urandom(6 * MIB + 12_345)
TOKEN = {"PARLEY_TOKEN": "a.e30.c"}
AGAIN = "the same command again goes on with it"


@pytest.fixture
async def script() -> AsyncIterator[ScriptedFiles]:
    async with ScriptedFiles().running() as running:
        yield running


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(DATA)
    return path


def kept(parley: Parley) -> list[Path]:
    return list((parley.folder / "uploads").iterdir())


async def begin(parley: Parley, script: ScriptedFiles, *arguments: str | Path) -> Running:
    return await parley.begin("upload", *map(str, arguments), "--target", script.address, **TOKEN)


async def upload(parley: Parley, script: ScriptedFiles, *arguments: str | Path, stdin: str = "") -> Ended:
    return await (await begin(parley, script, *arguments)).ended(stdin)


async def test_the_ids_of_what_is_stored_are_said(parley: Parley, script: ScriptedFiles, data: Path) -> None:
    empty = data.with_name("empty.txt")
    await asyncio.to_thread(empty.touch)
    ended = await upload(parley, script, data, "--name", "../other name", "--label", "a=b=c", "--label", "d=")
    (id_,) = script.files
    assert ended == Ended(0, f"{id_}\n", "")
    (begun,) = script.uploads.values()
    assert (begun.start.filename, begun.start.content_type) == ("../other name", "")
    assert dict(begun.start.labels) == {"a": "b=c", "d": ""}
    ended = await upload(parley, script, data, empty, data)
    assert (ended.code, ended.stderr) == (0, "")
    _, *ids = script.files
    by_size = {len(content): id_ for id_, (_, content) in script.files.items() if id_ in ids}
    assert sorted(ended.stdout.splitlines()) == sorted([f"{by_size[len(DATA)]}  {data}", f"{by_size[0]}  {empty}"])
    assert sorted(script.stored(), key=len) == [b"", DATA, DATA]
    assert list(script.uploads.values())[-1].start.content_type in {"", "text/plain"}
    assert kept(parley) == []


async def test_programs_get_json(parley: Parley, script: ScriptedFiles, data: Path) -> None:
    ended = await upload(parley, script, data, "--json")
    said = json.loads(ended.stdout)
    assert said["path"] == str(data)
    assert (said["file"]["id"], said["file"]["size_bytes"]) == (next(iter(script.files)), str(len(DATA)))


async def test_what_cannot_be_read_is_said_and_does_not_keep_the_others(
    parley: Parley, script: ScriptedFiles, data: Path
) -> None:
    ended = await upload(parley, script, data.parent, data, "/no/\x1bfile")
    assert ended.code == 1
    assert ended.stderr.splitlines() == [
        f"parley: {data.parent}: is a folder: give the files in it",
        "parley: /no/\ufffdfile: cannot be read: No such file or directory",
        "2 of 3 files were not uploaded",
    ]
    assert script.stored() == [DATA]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("-",), "what comes from stdin has no name: give --name"),
        (("a", "b", "--name", "c"), "--name is for one file"),
        (("a", "--label", "b"), "--label b is not KEY=VALUE, or the key is there twice"),
    ],
)
async def test_a_wrong_usage_is_said(parley: Parley, arguments: tuple[str, ...], says: str) -> None:
    assert await parley.run("upload", *arguments, **TOKEN) == Ended(2, "", f"parley: {says}\n")


@pytest.mark.parametrize("how", ["interrupt", "kill"])
async def test_the_next_run_goes_on_where_one_was_ended(
    parley: Parley, script: ScriptedFiles, data: Path, how: str
) -> None:
    held = Fault(5 * MIB, hold=True)
    script.faults = [held]
    run = await begin(parley, script, data)
    await asyncio.wait_for(held.is_reached.wait(), 20)
    if how == "interrupt":
        run.interrupt()
    else:
        run.process.kill()
    ended = await run.ended()
    if how == "interrupt":
        assert (ended.code, ended.stdout, ended.stderr) == (130, "", f"interrupted: {AGAIN}\n")
    (state,) = kept(parley)
    assert state.stat().st_mode & 0o777 == 0o600
    assert state.parent.stat().st_mode & 0o777 == 0o700

    before = script.received
    ended = await upload(parley, script, data)
    assert (ended.code, ended.stderr) == (0, f"{data}: resumed at 5.2 MB\n")
    assert script.received - before == len(DATA) - 5 * MIB
    assert script.stored() == [DATA]
    assert kept(parley) == []


async def test_a_file_that_is_another_one_by_the_next_run_is_sent_from_its_beginning(
    parley: Parley, script: ScriptedFiles, data: Path
) -> None:
    script.faults = [Fault(2 * MIB, UploadTakenOver(), in_band=True)]
    ended = await upload(parley, script, data)
    assert ended == Ended(1, "", f"parley: {data}: another command has gone on with this upload\n")
    (first,) = script.uploads
    await asyncio.to_thread(data.write_bytes, DATA[::-1] + b"more")
    ended = await upload(parley, script, data)
    assert ended.stderr == f"{data} has changed since it was begun: it is sent from its beginning\n"
    assert script.cancelled == [first]
    assert script.stored() == [DATA[::-1] + b"more"]


async def test_a_file_that_changes_while_it_is_sent_is_not_stored(
    parley: Parley, script: ScriptedFiles, data: Path
) -> None:
    held = Fault(2 * MIB, hold=True)
    script.faults = [held]
    run = await begin(parley, script, data)
    await asyncio.wait_for(held.is_reached.wait(), 20)
    with data.open("r+b") as file:
        file.write(b"x")
    held.goes_on.set()
    ended = await run.ended()
    assert ended == Ended(1, "", f"parley: {data}: has changed while it was sent: nothing is stored\n")
    assert (script.stored(), len(script.cancelled), kept(parley)) == ([], 1, [])


async def test_an_upload_that_the_server_does_not_know_any_more_begins_anew(
    parley: Parley, script: ScriptedFiles, data: Path
) -> None:
    script.faults = [Fault(2 * MIB, UploadTakenOver(), in_band=True)]
    await upload(parley, script, data)
    (first,) = script.uploads
    script.expired.add(script.uploads.pop(first).start.request_id)
    ended = await upload(parley, script, data)
    assert (ended.code, ended.stderr) == (0, "")
    assert script.stored() == [DATA]


# Connections that break


async def test_a_stream_that_breaks_is_taken_up_where_the_server_has_it(
    parley: Parley, script: ScriptedFiles, data: Path
) -> None:
    script.faults = [Fault(2 * MIB, ShuttingDown()), Fault(0, Overloaded(), in_band=True), Fault(MIB, ShuttingDown())]
    ended = await upload(parley, script, data)
    assert ended.code == 0
    assert ended.stderr.count("trying again") == 2  # for what has come on meanwhile has begun anew
    assert script.stored() == [DATA]
    assert script.received == len(DATA)


async def test_a_service_that_goes_away_and_comes_back_gets_the_rest(
    parley: Parley, script: ScriptedFiles, data: Path
) -> None:
    async with Relay(script.address).running() as relay:
        relay.hold_after(4 * MIB)
        run = await parley.begin("upload", str(data), "--target", relay.address, **TOKEN)
        await asyncio.wait_for(relay.is_held.wait(), 20)
        await relay.go_away()
        assert "trying again" in await run.line()
        relay.let_go()
        await relay.come_back()
        ended = await run.ended()
    assert ended.code == 0
    assert script.stored() == [DATA]
    assert script.received < len(DATA) + MIB


async def test_who_resumes_last_has_the_upload(parley: Parley, script: ScriptedFiles, data: Path) -> None:
    held = Fault(2 * MIB, UploadTakenOver(), hold=True, in_band=True)
    script.faults = [held]
    first = await begin(parley, script, data)
    await asyncio.wait_for(held.is_reached.wait(), 20)
    second = await upload(parley, script, data)
    assert (second.code, second.stderr) == (0, f"{data}: resumed at 2.1 MB\n")
    held.goes_on.set()
    ended = await first.ended()
    assert ended == Ended(1, "", f"parley: {data}: another command has gone on with this upload\n")
    assert script.stored() == [DATA]


async def test_a_token_that_expires_in_the_middle_is_renewed(
    signed_in: Parley, script: ScriptedFiles, data: Path
) -> None:
    script.faults = [Fault(MIB, TokenExpired()), Fault(MIB, TokenExpired())]
    ended = await signed_in.run("upload", str(data), "--target", script.address)
    assert (ended.code, ended.stderr) == (0, "")
    assert script.stored() == [DATA]
    assert len(set(script.tokens)) == 3


async def test_a_service_that_stays_away_is_given_up_with_a_way_to_go_on(
    parley: Parley, script: ScriptedFiles, data: Path
) -> None:
    script.faults = [Fault(PART, ShuttingDown()), *[Fault(0, ShuttingDown())] * 50]
    begun = time.monotonic()
    ended = await upload(parley, script, data, "--timeout", "2")
    assert 1.5 < time.monotonic() - begun < 15
    assert ended.code == 1
    *_, why, how = ended.stderr.splitlines()
    assert why.endswith("(SHUTTING_DOWN)")
    assert how == f"parley: {data}: {AGAIN}"
    script.faults = []
    assert (await upload(parley, script, data)).code == 0
    assert script.stored() == [DATA]


async def test_a_stream_that_takes_nothing_is_replaced(parley: Parley, script: ScriptedFiles, data: Path) -> None:
    script.faults = [Fault(PART, hold=True)]
    ended = await upload(parley, script, data, "--timeout", "2")
    assert (ended.code, ended.stderr) == (0, f"{data}: {script.address} takes nothing; trying again\n")
    assert script.stored() == [DATA]


async def test_the_wait_that_a_server_asks_for_is_kept(parley: Parley, script: ScriptedFiles, data: Path) -> None:
    script.faults = [Fault(PART, Overloaded(retry_after=timedelta(seconds=2)), in_band=True)]
    begun = time.monotonic()
    assert (await upload(parley, script, data)).code == 0
    assert time.monotonic() - begun > 2
    script.faults = [Fault(PART, Overloaded(retry_after=timedelta(hours=1)), in_band=True)]
    ended = await upload(parley, script, data)
    assert ended.code == 1
    assert ended.stderr.endswith(f"(OVERLOADED)\nparley: {data}: {AGAIN}\n")


# Stdin


async def test_stdin_is_sent_again_as_far_as_the_server_has_not_kept_it(parley: Parley, script: ScriptedFiles) -> None:
    text = DATA.hex()
    script.faults = [Fault(2 * MIB, ShuttingDown()), Fault(3 * MIB, Overloaded(), in_band=True)]
    ended = await upload(parley, script, "-", "--name", "notes", stdin=text)
    assert ended.code == 0
    assert script.stored() == [text.encode()]


async def test_stdin_may_be_quiet_for_longer_than_a_stream(parley: Parley, script: ScriptedFiles) -> None:
    script.idle_seconds = 0.4
    run = await begin(parley, script, "-", "--name", "notes")
    assert run.process.stdin
    for word in (b"one ", b"two ", b"three"):
        run.process.stdin.write(word)
        await asyncio.sleep(1)  # The silence is what is shown.
    ended = await run.ended()
    assert (ended.code, ended.stderr) == (0, "")
    assert script.stored() == [b"one two three"]
    assert len(script.tokens) >= 3


async def test_ctrl_c_leaves_nothing_of_stdin_at_the_server(parley: Parley, script: ScriptedFiles) -> None:
    run = await begin(parley, script, "-", "--name", "notes")
    assert run.process.stdin
    run.process.stdin.write(b"x" * PART)
    await until(lambda: script.received > 0)
    run.interrupt()
    async with asyncio.timeout(10):  # although stdin is still open
        await run.process.wait()
    ended = await run.ended()
    assert (ended.code, ended.stderr) == (130, "interrupted\n")
    assert (len(script.cancelled), script.uploads) == (1, {})


# On a terminal


async def test_progress_is_shown_on_a_terminal(parley: Parley, script: ScriptedFiles, data: Path) -> None:
    held = Fault(4 * MIB, hold=True)
    script.faults = [held]
    other = data.with_name("other.bin")
    await asyncio.to_thread(other.write_bytes, DATA[:100])
    arguments = ("upload", str(data), str(other), "--parallel", "1", "--target", script.address)
    async with parley.terminal(*arguments, **TOKEN) as terminal:
        await terminal.until("/6.3 MB")
        await terminal.until("in all")
        await terminal.until("MB/s")
        held.goes_on.set()
        assert await terminal.ended() == 0
    for id_ in script.files:
        assert f"{id_}  " in terminal.said


async def test_a_terminal_is_as_it_was_after_ctrl_c(parley: Parley, script: ScriptedFiles, data: Path) -> None:
    held = Fault(4 * MIB, hold=True)
    script.faults = [held]
    async with parley.terminal("upload", str(data), "--target", script.address, **TOKEN) as terminal:
        await terminal.until("MB/s")
        terminal.type("\x03")
        assert await terminal.ended() == 130
    assert terminal.said.rstrip().endswith(f"interrupted: {AGAIN}\x1b[0m")
    assert terminal.said.count("\x1b[?25l") == terminal.said.count("\x1b[?25h")  # the cursor is there again
