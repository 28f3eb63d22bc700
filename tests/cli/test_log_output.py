"""The one log of several processes, for people and for machines."""

import json
import os
import signal
import subprocess
from pathlib import Path

from services.cli.log_output import LineSplitter, Output
from tests.cli.test_commands import NOBODY_THERE
from tests.cli.test_demo import PARLEY, environment


def written(*chunks: bytes, as_json: bool) -> list[str]:
    """The lines that come out when a process named `auth` writes these chunks and ends."""
    reader, writer = os.pipe()
    output = Output(["auth", "postgres"], fd=writer, colour=False, as_json=as_json)
    lines = LineSplitter(output, "auth")
    for chunk in chunks:
        lines.feed(chunk)
    lines.finish()
    output.say("\nparley: auth is back\n")
    output.close()
    os.close(writer)
    with os.fdopen(reader) as file:
        return file.read().splitlines()


def test_for_people_every_line_has_the_name_of_who_wrote_it() -> None:
    lines = written(b"one\ntw", b"o\r\nthree", as_json=False)
    assert lines == ["auth     | one", "auth     | two", "auth     | three", "", "parley: auth is back", ""]


def test_for_machines_every_line_is_one_object_whatever_was_written() -> None:
    chunks = (b'{"event": "listening", "process": "a', b'uth"}\n', b"Traceback\n[1]\n{broken\n\xff\n", b"the end")
    objects = [json.loads(line) for line in written(*chunks, as_json=True)]
    assert objects[0] == {"event": "listening", "process": "auth"}
    said = [(line["process"], line["event"]) for line in objects[1:]]
    texts = ["Traceback", "[1]", "{broken", "\N{REPLACEMENT CHARACTER}", "the end"]
    assert said == [*(("auth", text) for text in texts), ("parley", "parley: auth is back")]
    assert all(line["level"] == "info" and line["timestamp"].endswith("Z") for line in objects[1:])


def test_processes_that_share_a_port_are_told_apart_in_a_log_for_machines(tmp_path: Path) -> None:
    found = environment(tmp_path, PARLEY_DATABASE_URL=NOBODY_THERE, PARLEY_LOG_FORMAT="json")
    command = (*PARLEY, "serve", "chat", "--processes", "2")
    with subprocess.Popen(command, env=found, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        listening: set[str] = set()
        while listening != {"chat-1", "chat-2"}:
            line = json.loads(process.stdout.readline())
            if line["event"] == "listening":
                listening.add(line["process"])
        process.send_signal(signal.SIGTERM)
        for rest in process.stdout:
            assert json.loads(rest)["process"] in {"chat-1", "chat-2", "parley"}
        assert process.wait(timeout=10) == 0
