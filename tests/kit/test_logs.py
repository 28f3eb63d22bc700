"""The log of a process: whoever writes to it, it holds no data that a call or a job was about."""

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
