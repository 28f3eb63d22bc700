"""The watch over the logs of the tests themselves."""

import base64
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.auth.domain.secret import new_secret
from services.auth.models.sessions import AccessToken, SignedIn
from tests.canaries import Canaries, LogWatch, remembered


@pytest.mark.parametrize(
    "written",
    [
        "password='only the canary knows'",
        b"only the canary knows".hex(),
        base64.b64encode(b"only the canary knows, and more").decode(),
        "token REFRESH, and more",
        "Bearer eyJhbGciOi.eyJzdWIiOi.REFRESHandtherest",
        "xREFRESH",
    ],
)
def test_a_secret_in_a_log_is_noticed_however_it_is_written(written: str) -> None:
    canaries, token = Canaries(), new_secret()
    canaries.add("password", "only the canary knows")
    canaries.add_token("token", token)
    canaries.add_token("token", f"eyJhbGciOi.eyJzdWIiOi.{token}andtherest")
    text = f"a line\n{written.replace('REFRESH', token)}\nanother"
    assert len(canaries.found_in(text)) == 1
    assert canaries.found_in(text[: len(text) // 3]) == set()


def test_what_tests_and_their_processes_wrote_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, canaries = LogWatch(), Canaries()
    monkeypatch.setattr("tests.canaries.remembered", canaries)
    canaries.add("password", "only the canary knows")
    report: Any = SimpleNamespace(sections=[("Captured stdout call", "all is well")])
    watch.pytest_runtest_logreport(report)
    (tmp_path / "auth.log").write_text("all is well")
    assert watch.leaks(tmp_path) == []
    (tmp_path / "auth.log").write_text("she said: only the canary knows")
    report.sections = [("Captured stderr call", "only the canary knows, too")]
    watch.pytest_runtest_logreport(report)
    assert watch.leaks(tmp_path) == ["output: password as text", "auth.log: password as text"]


def test_tokens_that_auth_gives_out_are_remembered() -> None:
    token: Any = new_secret()
    session: Any = None
    SignedIn(AccessToken("a.b.c", session), token, session)
    assert remembered.found_in(f"refresh_token={token}") == {"a refresh token"}
