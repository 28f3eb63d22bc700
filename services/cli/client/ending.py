"""How a command ends that something keeps from being done: one line for each thing that is wrong, and the exit code."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class Failed(Exception):
    """A command cannot do what it should. The texts are for its user.

    If a service is why, there is its reason, and the seconds after which it says that trying again may help.
    """

    def __init__(
        self, *lines: str, code: int = EXIT_FAILED, reason: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
        self.code = code
        self.reason = reason
        self.retry_after = retry_after


class Away(Failed):
    """A service cannot be reached, or cannot do its work, for the time being."""


class NotSignedIn(Failed):
    """Nobody is signed in, or not any more."""

    def __init__(self, why: str, profile: str) -> None:
        option = "" if profile == "default" else f" --profile {profile}"
        super().__init__(f"{why}: run `parley login{option}`")


@contextmanager
def ending() -> Iterator[None]:
    """The block is a command."""
    try:
        yield
    except Failed as failure:
        for line in failure.lines:
            sys.stderr.write(f"parley: {line}\n")
        raise typer.Exit(failure.code) from None
    except UnicodeEncodeError:
        sys.stderr.write("parley: what was given is not UTF-8\n")
        raise typer.Exit(EXIT_USAGE) from None
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
