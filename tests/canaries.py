"""Secrets that the tests hold, and a plugin that fails the run at its end if one of them is in a log.

What is looked at is all that was written while tests ran, and what their processes wrote to files named `*log*`.
Remembered are passwords from `canary`, the password that tests share, and tokens that auth gives out in this process.
"""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from services.auth.models.sessions import SignedIn

TOKEN_CHARACTERS = 43
"""The length of 256 bits in base64url: of a refresh token, and what is remembered of an access token's signature."""
SHARED_PASSWORD = "correct horse battery staple"
# What `parley up` writes for everybody to try has the shared password in it.
_EXAMPLE = "grpcurl -plaintext"
_WORD = re.compile(rf"[A-Za-z0-9_-]{{{TOKEN_CHARACTERS},}}")


class Canaries:
    """What must not be found, by what it is called in a report: never the secret itself."""

    def __init__(self) -> None:
        self._phrases: dict[str, str] = {}
        self._tokens: dict[str, str] = {}

    def add(self, kind: str, secret: str) -> None:
        """Remember a secret that is short or has spaces, in all of its forms."""
        for form, text in forms(secret.encode()).items():
            self._phrases[text] = f"{kind} as {form}"

    def add_token(self, kind: str, token: str) -> None:
        """Remember a token, by the first characters of its last part: there may be thousands."""
        self._tokens[token.rsplit(".", 1)[-1][:TOKEN_CHARACTERS]] = kind

    def found_in(self, text: str) -> set[str]:
        """What of all this a text has in it."""
        found = {what for phrase, what in self._phrases.items() if phrase in text}
        for word in set(_WORD.findall(text)):
            for at in range(len(word) - TOKEN_CHARACTERS + 1):
                if kind := self._tokens.get(word[at : at + TOKEN_CHARACTERS]):
                    found.add(kind)
        return found


def forms(secret: bytes) -> dict[str, str]:
    """The ways in which a secret could be written down; base64 without the last characters, which its end changes."""
    written = {
        "hex": secret.hex(),
        "base64": base64.b64encode(secret).decode().rstrip("=")[:-1],
        "base64url": base64.urlsafe_b64encode(secret).decode().rstrip("=")[:-1],
    }
    try:
        return {"text": secret.decode(), **written}
    except UnicodeDecodeError:
        return written


remembered = Canaries()
remembered.add("the tests' password", SHARED_PASSWORD)


def canary(kind: str) -> str:
    """A new secret, such as a password of a test's own. The run fails if it is in a log."""
    secret = f"canary {kind} {uuid4().hex}"
    remembered.add(kind, secret)
    return secret


class LogWatch:
    """Keeps what was written while tests ran, to the end of the run."""

    def __init__(self) -> None:
        self._kept: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a test's output and log were."""
        self._kept += [text for _, text in report.sections]

    def leaks(self, folder: Path) -> list[str]:
        """Where something is that must not be, in the output or in a file that processes wrote in the folder."""
        written = _without_examples("\n".join(self._kept))
        found = [f"output: {what}" for what in sorted(remembered.found_in(written))]
        for path in sorted(folder.rglob("*log*")):
            if path.is_file() and not path.is_symlink():
                text = _without_examples(path.read_text(errors="replace"))
                found += [f"{path.relative_to(folder)}: {what}" for what in sorted(remembered.found_in(text))]
        return found


def _without_examples(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if _EXAMPLE not in line)


def pytest_configure(config: pytest.Config) -> None:
    """Begin to watch."""
    config.pluginmanager.register(LogWatch(), "log-watch")
    _remember_tokens()


def _remember_tokens() -> None:
    """From now on, remember every pair of tokens that auth makes in this process."""
    make: Any = SignedIn.__init__

    def make_and_remember(self: SignedIn, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        remembered.add_token("a refresh token", self.refresh_token)
        remembered.add_token("an access token", self.access.token)

    SignedIn.__init__ = make_and_remember  # type: ignore[method-assign]  # the tests' ears


@pytest.fixture(scope="session", autouse=True)
def no_secret_is_in_any_log(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """At the end of the run, fail if a secret has been written anywhere."""
    yield
    watch = request.config.pluginmanager.get_plugin("log-watch")
    assert isinstance(watch, LogWatch)
    assert watch.leaks(tmp_path_factory.getbasetemp()) == []
