"""`python -m benchmarks`: measure Parley beside its peers."""

import argparse
import signal
import sys
from collections.abc import Callable
from typing import Protocol

from benchmarks import crud, layers, tokens, transfers, unary
from benchmarks.download import DOWNLOAD
from benchmarks.load import WrongAnswers, require_h2load
from benchmarks.processes import NotReady
from benchmarks.upload import UPLOAD

EXIT_GOAL_MISSED = 1
EXIT_FAILED = 2
WITHOUT_H2LOAD = ("tokens", "upload", "download")


class Result(Protocol):
    """What a scenario found."""

    def show(self) -> None:
        """Print it for people."""

    def show_json(self) -> None:
        """Print it as one JSON object."""


def main() -> int:
    """Run a scenario. 0: the goal is reached; 1: it is missed; 2: it could not be measured."""
    arguments = _arguments()
    if arguments.scenario not in WITHOUT_H2LOAD:
        require_h2load()
    # So that `kill` ends what was started, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_FAILED))
    try:
        return _SCENARIOS[arguments.scenario](arguments)
    except (WrongAnswers, NotReady) as failure:
        sys.stderr.write(f"benchmarks: {failure}\n")
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_FAILED


def _unary(arguments: argparse.Namespace) -> int:
    contest = unary.run(rounds=arguments.rounds, seconds=arguments.seconds, logs=arguments.logs == "on")
    _show(contest, arguments)
    return 0 if contest.is_reached else EXIT_GOAL_MISSED


def _crud(arguments: argparse.Namespace) -> int:
    contests = crud.run(rounds=arguments.rounds, seconds=arguments.seconds, only=arguments.only)
    _show(contests, arguments)
    return 0 if contests.is_reached else EXIT_GOAL_MISSED


def _layers(arguments: argparse.Namespace) -> int:
    _show(layers.run(rounds=arguments.rounds, seconds=arguments.seconds), arguments)
    return 0


def _tokens(arguments: argparse.Namespace) -> int:
    _show(tokens.run(rounds=arguments.rounds, seconds=arguments.seconds), arguments)
    return 0


def _upload(arguments: argparse.Namespace) -> int:
    return _transfers(UPLOAD, arguments)


def _download(arguments: argparse.Namespace) -> int:
    return _transfers(DOWNLOAD, arguments)


def _transfers(scenario: transfers.Scenario, arguments: argparse.Namespace) -> int:
    result = scenario.run(
        rounds=arguments.rounds,
        mib=arguments.mib,
        files=arguments.files,
        only=arguments.only,
        records=arguments.peer == "records",
    )
    _show(result, arguments)
    return 0 if result.is_reached else EXIT_GOAL_MISSED


_SCENARIOS = {
    "unary": _unary,
    "crud": _crud,
    "layers": _layers,
    "tokens": _tokens,
    "upload": _upload,
    "download": _download,
}


def _show(result: Result, arguments: argparse.Namespace) -> None:
    if arguments.json:
        result.show_json()
    else:
        result.show()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures Parley beside a peer that does the same work on the same machine at the same time. What "
        "is compared runs in turns, and the median of the rounds counts. Everything is started for it, on the loopback "
        "interface, and ended afterwards. All but `tokens`, `upload` and `download` need h2load, of the package "
        "nghttp2-client.",
        epilog="Exit code: 0 goal reached, 1 goal missed, 2 could not be measured.",
    )
    scenarios = parser.add_subparsers(dest="scenario", metavar="scenario")
    for name, what, rounds, seconds in (
        ("unary", "GetAgent of the agent service beside FastAPI + SQLAlchemy (what runs when none is named)", 5, 4),
        ("crud", "GetAgent, CreateAgent and ListAgents beside FastAPI + SQLAlchemy", 5, 4),
        ("layers", "what each layer around an RPC costs", 3, 2),
        ("tokens", "access tokens verified, with and without the cache, and logins", 3, 2),
        ("upload", "files into the file service beside FastAPI's UploadFile and request.stream()", 5, 0),
        ("download", "files from the file service beside FastAPI's FileResponse", 5, 0),
    ):
        scenario = scenarios.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
        _add_options(scenario, name, rounds, seconds)
    given = sys.argv[1:]
    names_none = not given or (given[0].startswith("-") and given[0] not in ("-h", "--help"))
    return parser.parse_args(["unary", *given] if names_none else given)


def _add_options(scenario: argparse.ArgumentParser, name: str, rounds: int, seconds: int) -> None:
    scenario.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    scenario.add_argument(
        "--rounds", type=_between(1, 50), default=rounds, help="how often each is measured (%(default)s)"
    )
    if seconds:
        scenario.add_argument(
            "--seconds", type=_between(1, 60), default=seconds, help="how long each time (%(default)s)"
        )
    else:
        _add_transfer_options(scenario)
    if name == "crud":
        names = [operation.name for operation in crud.OPERATIONS]
        scenario.add_argument("--only", nargs="+", choices=names, default=[], help="measure these alone")
    if name == "unary":
        scenario.add_argument(
            "--logs",
            choices=("on", "off"),
            default="on",
            help="whether both write a line for each request, to a file (%(default)s)",
        )


def _add_transfer_options(scenario: argparse.ArgumentParser) -> None:
    names = (transfers.LARGE, transfers.SMALL)
    scenario.add_argument("--only", nargs="+", choices=names, default=[], help="measure these alone")
    scenario.add_argument(
        "--mib", type=_between(1, 1024), default=256, help="how large the large file is, in MiB (%(default)s)"
    )
    scenario.add_argument(
        "--files", type=_between(2, 10_000), default=1000, help="how many small files there are (%(default)s)"
    )
    scenario.add_argument(
        "--peer",
        choices=("records", "bare"),
        default="records",
        help="whether the peer checks tokens and keeps in PostgreSQL whose files it has, as Parley does, or is no more "
        "than the example of its manual (%(default)s)",
    )


def _between(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be between {least} and {most}")
        return value

    return number


if __name__ == "__main__":
    raise SystemExit(main())
