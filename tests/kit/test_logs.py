"""The log of a process: whoever writes to it, it holds no data that a call or a job was about."""

import json
import subprocess
import sys

import pytest

SECRET = "the-secret-that-no-log-may-hold"
PROCESS = f"""
import asyncio
import logging

from sqlalchemy.exc import IntegrityError

from services.kit.logs import configure_logging
from services.kit.process import run_until_signal
from services.kit.settings import LogSettings


def fail():
    password = "".join({list(SECRET)})
    raise IntegrityError("INSERT", {{"password": password}}, ValueError(password))


async def be_forgotten():
    fail()


async def body(stop):
    task = asyncio.create_task(be_forgotten())
    await asyncio.wait((task,))
    del task
    try:
        fail()
    except IntegrityError as error:
        logging.getLogger("a.library").exception("it went wrong")
        logging.getLogger("procrastinate.worker.worker").error(
            "Job mail.send[1](text='%s') ended with status: Error", error.params, extra={{"action": "job_error"}}
        )


configure_logging(LogSettings(), "test")
run_until_signal(body)
"""


@pytest.mark.parametrize("form", ["console", "json"])
def test_an_exception_is_logged_without_its_text_and_without_the_values_of_variables(form: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROCESS],
        env={"PARLEY_LOG_FORMAT": form, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert ended.stderr.count("in be_forgotten") == 1
    assert ended.stderr.count("it went wrong") == 1
    assert ended.stderr.count("sqlalchemy.exc.IntegrityError (SQLSTATE None)") == 2
    assert SECRET not in ended.stderr
    assert "ended with status" not in ended.stderr


def test_every_line_for_machines_is_an_object_that_names_its_process() -> None:
    program = """
import logging
import warnings

import structlog

from services.kit.logs import configure_logging
from services.kit.settings import LogSettings

configure_logging(LogSettings(), "auth")
structlog.get_logger().info("ours", user_id="7")
logging.getLogger("a.library").warning("two\\nlines")
warnings.warn("beware", stacklevel=1)
raise RuntimeError("the end")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={"PARLEY_LOG_FORMAT": "json", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 1
    ours, library, warning, crash = (json.loads(line) for line in ended.stderr.splitlines())
    assert {line["process"] for line in (ours, library, warning, crash)} == {"auth"}
    assert (ours["event"], ours["level"], ours["user_id"]) == ("ours", "info", "7")
    assert (library["event"], library["level"]) == ("two\nlines", "warning")
    assert "beware" in warning["event"]
    assert (crash["event"], crash["level"]) == ("crashed", "critical")
    assert "RuntimeError: the end" in crash["fault"]
