"""`parley download`: the whole file under a harmless name or none, whatever breaks, and nothing lost that was there."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from services.kit.errors import ShuttingDown, TokenExpired
from tests.cli.parley_process import Ended, Parley, Running
from tests.cli.relay import Relay
from tests.cli.scripted_files import CHUNK, Fault, ScriptedFiles

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
TEXT = os.urandom(2 * MIB + 333).hex()
DATA = TEXT.encode()
TOKEN = {"PARLEY_TOKEN": "a.e30.c"}
AGAIN = "the same command again goes on with it"


@pytest.fixture
async def script() -> AsyncIterator[ScriptedFiles]:
    async with ScriptedFiles().running() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, parley: Parley) -> Path:
    """The current folder of whoever downloads."""
    folder = tmp_path / "current"
    folder.mkdir()
    parley.current_folder = folder
    return folder


def found(folder: Path) -> dict[str, Any]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def begin(parley: Parley, script: ScriptedFiles, *arguments: str | Path) -> Running:
    return await parley.begin("download", *map(str, arguments), "--target", script.address, **TOKEN)


async def download(parley: Parley, script: ScriptedFiles, *arguments: str | Path) -> Ended:
    return await (await begin(parley, script, *arguments)).ended()


async def test_files_come_into_the_current_folder_by_their_names(
    parley: Parley, script: ScriptedFiles, folder: Path
) -> None:
    ids = [script.add(DATA, "data.txt"), script.add(b"", "empty")]
    ended = await download(parley, script, *ids, ids[0])
    assert (ended.code, ended.stderr) == (0, "")
    assert sorted(ended.stdout.splitlines()) == ["data.txt", "empty"]
    assert found(folder) == {"data.txt": DATA, "empty": b""}
    assert list((parley.folder / "downloads").iterdir()) == []


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("../../x", "x"),
        ("/etc/passwd", "passwd"),
        ("a\x1b[31m\x07", "a_[31m_"),
        ("..", None),
        ("/", None),
        (".ssh", "ssh"),
    ],
)
async def test_a_name_of_a_stranger_does_no_harm(
    parley: Parley, script: ScriptedFiles, folder: Path, filename: str, name: str | None
) -> None:
    id_ = script.add(b"hello", filename)
    ended = await download(parley, script, id_)
    assert ended == Ended(0, f"{name or id_}\n", "")
    assert found(folder) == {name or id_: b"hello"}
    assert {path.name for path in folder.parent.iterdir()} <= {"current", "config"}


async def test_where_it_goes_can_be_said(parley: Parley, script: ScriptedFiles, folder: Path) -> None:
    id_ = script.add(DATA, "data.txt")
    other = folder / "other"
    await asyncio.to_thread(other.mkdir)
    assert (await download(parley, script, id_, "-o", "other")).stdout == "other/data.txt\n"
    ended = await download(parley, script, id_, "--output", "mine.txt", "--json")
    said = json.loads(ended.stdout)
    assert (said["path"], said["file"]["id"]) == ("mine.txt", id_)
    assert (found(other), (folder / "mine.txt").read_bytes()) == ({"data.txt": DATA}, DATA)
    nowhere = await download(parley, script, id_, "-o", "nowhere/x")
    assert nowhere.code == 1
    assert nowhere.stderr == f"parley: {id_}: nowhere/x.part cannot be written: No such file or directory\n"


async def test_a_part_of_it_can_be_asked_for(parley: Parley, script: ScriptedFiles, folder: Path) -> None:
    id_ = script.add(DATA)
    for options, part in (
        (("--offset", "100", "--limit", "200000"), DATA[100:200100]),
        (("--offset", "-100"), DATA[-100:]),
        (("--limit", "1"), DATA[:1]),
        (("--offset", str(len(DATA))), b""),
    ):
        assert (await download(parley, script, id_, *options, "--force")).code == 0
        assert found(folder) == {"data.bin": part}
    ended = await download(parley, script, id_, "--offset", str(len(DATA) + 1), "--force")
    assert ended.code == 1
    assert ended.stderr.endswith(f"is beyond the end: the file has {len(DATA)} bytes\n")


async def test_what_is_there_is_not_overwritten(parley: Parley, script: ScriptedFiles, folder: Path) -> None:
    id_, twin = script.add(DATA, "data.txt"), script.add(DATA, "x/data.txt")
    (folder / "data.txt").symlink_to("elsewhere")
    ended = await download(parley, script, id_)
    assert ended == Ended(1, "", f"parley: {id_}: data.txt is there already: --force overwrites it\n")
    assert (folder / "data.txt").is_symlink()
    assert (await download(parley, script, id_, "--force")).code == 0
    assert found(folder) == {"data.txt": DATA}
    fifo = folder / "fifo"
    await asyncio.to_thread(os.mkfifo, fifo)
    ended = await download(parley, script, id_, "--output", "fifo", "--force")
    assert ended == Ended(1, "", f"parley: {id_}: fifo is no regular file\n")
    fifo.unlink()
    (folder / "data.txt").unlink()
    ended = await download(parley, script, id_, twin, "--parallel", "1")
    assert (ended.code, ended.stdout) == (1, "data.txt\n")
    assert ended.stderr.splitlines() == [
        f"parley: {twin}: data.txt is {id_} already: download this one by itself, with --output",
        "1 of 2 files were not downloaded",
    ]


async def test_a_part_that_nobody_knows_is_left_alone(parley: Parley, script: ScriptedFiles, folder: Path) -> None:
    id_ = script.add(DATA, "data.txt")
    part = folder / "data.txt.part"
    await asyncio.to_thread(part.write_bytes, b"mine")
    ended = await download(parley, script, id_)
    says = "data.txt.part is there, and not known to be of this download: --force overwrites it"
    assert ended == Ended(1, "", f"parley: {id_}: {says}\n")
    assert found(folder) == {"data.txt.part": b"mine"}
    part.unlink()
    part.symlink_to("elsewhere")
    assert (await download(parley, script, id_, "--force")).code == 1
    assert not (folder / "elsewhere").exists()
    part.unlink()
    await asyncio.to_thread(part.write_bytes, b"mine")
    assert (await download(parley, script, id_, "--force")).code == 0
    assert found(folder) == {"data.txt": DATA}


@pytest.mark.parametrize("how", ["interrupt", "kill"])
async def test_the_next_run_goes_on_where_one_was_ended(
    parley: Parley, script: ScriptedFiles, folder: Path, how: str
) -> None:
    id_ = script.add(DATA, "data.txt")
    held = Fault(2 * MIB, hold=True)
    script.faults = [held]
    run = await begin(parley, script, id_)
    await asyncio.wait_for(held.is_reached.wait(), 20)
    part = folder / "data.txt.part"
    async with asyncio.timeout(20):
        while not part.exists() or part.stat().st_size < 2 * MIB:  # noqa: ASYNC110  # another process writes it
            await asyncio.sleep(0.02)
    second = await download(parley, script, id_)
    assert second == Ended(1, "", f"parley: {id_}: another command is writing data.txt.part\n")
    if how == "interrupt":
        run.interrupt()
    else:
        run.process.kill()
    ended = await run.ended()
    if how == "interrupt":
        assert (ended.code, ended.stdout, ended.stderr) == (130, "", f"interrupted: {AGAIN}\n")
    assert found(folder) == {"data.txt.part": DATA[: 2 * MIB]}

    ended = await download(parley, script, id_)
    assert (ended.code, ended.stderr) == (0, "data.txt: resumed at 2.1 MB\n")
    assert script.asked_for[-1] == 2 * MIB
    assert found(folder) == {"data.txt": DATA}


async def test_a_stream_that_breaks_or_brings_damaged_bytes_is_taken_up(
    parley: Parley, script: ScriptedFiles, folder: Path
) -> None:
    id_ = script.add(DATA, "data.txt")
    script.faults = [
        Fault(MIB, ShuttingDown()),
        Fault(MIB, damaged=True),
        Fault(MIB, TokenExpired()),
        Fault(without_trailer=True),
    ]
    ended = await download(parley, script, id_, "--timeout", "5")
    assert ended.code == 1  # a token that was given cannot be renewed
    ended = await download(parley, script, id_, "--timeout", "5")
    assert ended.code == 0
    assert script.asked_for == [0, MIB, 2 * MIB, 3 * MIB]
    assert found(folder) == {"data.txt": DATA}


async def test_a_service_that_goes_away_and_comes_back_gives_the_rest(
    parley: Parley, script: ScriptedFiles, folder: Path
) -> None:
    id_ = script.add(DATA, "data.txt")
    async with Relay(script.address).running() as relay:
        relay.hold_after(2 * MIB)
        run = await parley.begin("download", id_, "--target", relay.address, **TOKEN)
        await asyncio.wait_for(relay.is_held.wait(), 20)
        await relay.go_away()
        assert "trying again" in await run.line()
        relay.let_go()
        await relay.come_back()
        ended = await run.ended()
    assert ended.code == 0
    assert found(folder) == {"data.txt": DATA}
    assert script.asked_for[0] == 0 < script.asked_for[-1]


async def test_a_token_that_expires_in_the_middle_is_renewed(
    signed_in: Parley, script: ScriptedFiles, folder: Path
) -> None:
    script.faults = [Fault(MIB, TokenExpired()), Fault(MIB, TokenExpired())]
    ended = await signed_in.run("download", script.add(DATA, "data.txt"), "--target", script.address)
    assert ended == Ended(0, "data.txt\n", "")
    assert found(folder) == {"data.txt": DATA}
    assert len(set(script.tokens)) == 3


@pytest.mark.parametrize("wrong", ["hash", "trailer"])
async def test_wrong_bytes_get_no_name_and_are_not_gone_on_with(
    parley: Parley, script: ScriptedFiles, folder: Path, wrong: str
) -> None:
    script.wrong_sha256 = wrong == "hash"
    script.faults = [Fault(wrong_trailer=wrong == "trailer")]
    id_ = script.add(DATA, "data.txt")
    ended = await download(parley, script, id_)
    assert (ended.code, ended.stdout) == (1, "")
    assert ended.stderr.endswith(f"parley: {id_}: it is left in data.txt.part, for you to look at and remove\n")
    assert found(folder) == {"data.txt.part": DATA}
    assert "not known to be of this download" in (await download(parley, script, id_)).stderr


async def test_a_file_that_there_is_not_is_said(parley: Parley, script: ScriptedFiles, folder: Path) -> None:
    id_ = script.add(DATA, "data.txt")
    nothing = str(uuid4())
    ended = await download(parley, script, nothing, id_)
    assert (ended.code, ended.stdout) == (1, "data.txt\n")
    assert ended.stderr.splitlines() == [
        f"parley: {nothing}: There is no such file. (FILE_NOT_FOUND)",
        "1 of 2 files were not downloaded",
    ]
    assert found(folder) == {"data.txt": DATA}


# Stdout


async def test_a_file_may_go_to_stdout(parley: Parley, script: ScriptedFiles, folder: Path) -> None:
    id_ = script.add(DATA)
    script.faults = [Fault(MIB, ShuttingDown())]
    ended = await download(parley, script, id_, "-o", "-")
    assert (ended.code, ended.stdout) == (0, TEXT)
    assert script.asked_for == [0, MIB]
    script.wrong_sha256 = True
    ended = await download(parley, script, script.add(DATA), "-o", "-")
    assert (ended.code, ended.stdout) == (1, TEXT)
    assert ended.stderr.endswith("what has come has not the SHA-256 of what was uploaded\n")
    assert found(folder) == {}


async def test_ctrl_c_ends_it_although_nobody_reads_stdout(parley: Parley, script: ScriptedFiles) -> None:
    run = await begin(parley, script, script.add(DATA), "-o", "-")
    assert run.process.stdout
    assert await run.process.stdout.readexactly(CHUNK)
    run.interrupt()
    async with asyncio.timeout(10):
        ended = await run.ended()
    assert (ended.code, ended.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("a", "b", "-o", "-"), "only one file can go to stdout"),
        (("a", "-o", "-", "--json"), "--json and a file cannot both go to stdout"),
        (("a", "b", "-o", "c"), "--output c is no folder"),
        (("a", "-o", "c/"), "--output c/ is no folder"),
    ],
)
async def test_a_wrong_usage_is_said(parley: Parley, arguments: tuple[str, ...], says: str) -> None:
    assert await parley.run("download", *arguments, **TOKEN) == Ended(2, "", f"parley: {says}\n")


# On a terminal


async def test_progress_is_shown_on_a_terminal_and_names_do_not_command_it(
    parley: Parley, script: ScriptedFiles, folder: Path
) -> None:
    held = Fault(2 * MIB, hold=True)
    script.faults = [held]
    arguments = ("download", script.add(DATA, "\x1b]0;title\x07[b]data[/b]"), "--target", script.address)
    async with parley.terminal(*arguments, **TOKEN) as terminal:
        await terminal.until("/4.2 MB")
        await terminal.until("MB/s")
        held.goes_on.set()
        assert await terminal.ended() == 0
    assert "\x1b]0;" not in terminal.said
    assert list(found(folder)) == ["b]"]


async def test_a_file_does_not_go_to_a_terminal(parley: Parley, script: ScriptedFiles) -> None:
    arguments = ("download", script.add(b"\x1b[2J"), "-o", "-", "--target", script.address)
    async with parley.terminal(*arguments, **TOKEN) as terminal:
        assert await terminal.ended() == 2
    assert "\x1b[2J" not in terminal.said
