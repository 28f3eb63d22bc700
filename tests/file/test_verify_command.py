"""`parley files verify`, as an operator runs it beside the services."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.file.store import PartStore
from services.kit.database import libpq_url
from tests.file.steps import PART, Behind, Kept, download, some_bytes, upload, whole

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_a_folder")]

DATA = some_bytes(3 * PART + 100)
Verify = Callable[..., tuple[int, str]]


@pytest.fixture
def verify(database_url: str, kept: Kept, tmp_path: Path) -> Verify:
    """Runs the command; its exit code and what it printed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    environment = inherited | {
        "PARLEY_DATABASE_URL": libpq_url(database_url),
        "PARLEY_DATA_DIR": str(tmp_path),
        "PARLEY_FILE_STORE_URL": kept.url,
        "COLUMNS": "200",  # so that no sentence is broken
    }

    def verify(*arguments: str) -> tuple[int, str]:
        ended = subprocess.run(
            [sys.executable, "-m", "services.cli", "files", "verify", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.stderr == ""
        return ended.returncode, ended.stdout

    return verify


@pytest.fixture
async def stored(files: FileServiceStub, as_user: Any) -> pb2.File:
    return await upload(files, as_user("ann"), whole(DATA))


def add_stray(kept: Kept, name: str, *, days_old: float) -> Path:
    stray = kept.folder / name
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"nobody's")
    then = time.time() - days_old * 86_400
    os.utime(stray, (then, then))
    return stray


async def test_where_all_is_well_it_says_how_much_it_has_read(
    files: FileServiceStub, as_user: Any, stored: pb2.File, verify: Verify
) -> None:
    await upload(files, as_user("bob"), whole(b""))
    await files.DeleteFile(pb2.DeleteFileRequest(id=stored.id), metadata=as_user("ann"))
    assert verify() == (0, f"4 parts with {len(DATA)} bytes read: all is well\n")


def test_the_help_says_what_is_changed_and_what_the_exit_code_means(verify: Verify) -> None:
    code, said = verify("--help")
    assert code == 0
    for told in (
        "find parts in the store that belong to nothing",
        "Remove parts that belong to nothing; nothing else is ever changed.",
        "The exit code is 1 if something was found that remains.",
    ):
        assert told in said


def test_where_nothing_is_kept_all_is_well(verify: Verify) -> None:
    assert verify() == (0, "0 parts with 0 bytes read: all is well\n")


async def test_parts_that_are_missing_changed_or_not_listed_are_named_with_their_file(
    files: FileServiceStub, as_user: Any, stored: pb2.File, behind: Behind, verify: Verify
) -> None:
    other = await upload(files, as_user("ann"), whole(DATA))
    missing, changed, short = behind.parts()[0], behind.parts()[2], behind.parts()[4]
    missing.unlink()
    damaged = bytearray(changed.read_bytes())
    damaged[7] ^= 1
    changed.write_bytes(damaged)
    short.write_bytes(short.read_bytes()[:-1])
    await behind.execute(
        f"DELETE FROM file.parts p USING file.files f WHERE f.upload_id = p.upload_id AND f.id = '{other.id}'"
        f" AND p.offset_bytes = {2 * PART}"
    )
    for arguments in ((), ("--repair",)):
        code, said = verify(*arguments)
        assert code == 1
        assert [line.split(": ")[0] for line in said.splitlines()[:4]] == ["missing", "corrupt", "corrupt", "unlisted"]
        for file, at, part in (
            (stored, 0, missing),
            (stored, 2 * PART, changed),
            (other, 0, short),
        ):
            assert f"file {file.id}, from byte {at} on: {part.parent.name}/{part.name}" in said
        assert f"unlisted: file {other.id}, from byte {2 * PART} on\n" in said
        assert "4 damaged" in said


async def test_parts_that_belong_to_nothing_are_told_and_only_they_are_removed(
    files: FileServiceStub, as_user: Any, stored: pb2.File, kept: Kept, verify: Verify
) -> None:
    key = PartStore.new_key()
    orphan = add_stray(kept, key, days_old=2)
    young = add_stray(kept, PartStore.new_key(), days_old=0.5)
    foreign = add_stray(kept, "ab/notes.txt", days_old=90)
    code, said = verify()
    assert (code, f"orphan: {key}, 8 bytes" in said, orphan.exists()) == (1, True, True)
    code, said = verify("--json", "--repair")
    assert code == 0
    assert json.loads(said) == {
        "bytes_read": len(DATA),
        "parts_read": 4,
        "damaged": [],
        "orphans": [{"key": key, "size_bytes": 8}],
        "orphans_removed": 1,
    }
    assert [orphan.exists(), young.exists(), foreign.exists()] == [False, True, True]
    assert verify()[0] == 0
    assert (await download(files, as_user("ann"), stored.id))[1] == DATA


async def test_what_is_found_can_be_read_by_programs(stored: pb2.File, behind: Behind, verify: Verify) -> None:
    part = behind.parts()[1]
    part.unlink()
    code, said = verify("--json")
    assert code == 1
    (found,) = json.loads(said)["damaged"]
    assert (found["damage"], found["file_id"], found["offset_bytes"]) == ("missing", stored.id, PART)
    assert found["key"] == f"{part.parent.name}/{part.name}"
