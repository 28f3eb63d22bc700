"""The commands: what is read from the command line, and what is done with it."""

import asyncio
from typing import Annotated, TypeAlias

import typer

from services.cli.client.ending import EXIT_USAGE, Failed, ending
from services.cli.client.options import AsJson, FileTarget, ProfileName, Token

Parallel: TypeAlias = Annotated[int, typer.Option(min=1, max=32, metavar="N", help="How many files at a time.")]
Timeout: TypeAlias = Annotated[
    float, typer.Option(min=0.1, max=86_400, metavar="SECONDS", help="How long to go on trying when nothing comes on.")
]


def upload(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="The files; `-` for stdin, with --name.")],
    name: Annotated[str, typer.Option(help="What the file is called there; by default as here.")] = "",
    content_type: Annotated[str, typer.Option(help="Its media type; by default what its name tells.")] = "",
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="A note on each of the files.")] = None,
    parallel: Parallel = 4,
    timeout: Timeout = 60.0,
    json_: AsJson = False,
    target: FileTarget = "",
    profile: ProfileName = "default",
    token: Token = "",
) -> None:
    """Upload files, and say their ids.

    A connection that breaks is taken up again where it was. After Ctrl-C (130), or whatever else, the same command goes
    on where it was. A file that cannot be uploaded does not keep the others from it; the exit code is 1 then.
    """
    from services.cli.client.caller import calling_file
    from services.cli.files.progress import Screen
    from services.cli.files.upload import STDIN, What, upload_files

    async def work(what: What) -> int:
        async with calling_file(profile, target, token) as caller:
            screen = Screen(files=len(paths), as_json=json_)
            return await upload_files(caller, what, screen, parallel=parallel, seconds=timeout)

    with ending():
        if STDIN in paths and not name:
            raise Failed("what comes from stdin has no name: give --name", code=EXIT_USAGE)
        if name and len(paths) > 1:
            raise Failed("--name is for one file", code=EXIT_USAGE)
        raise typer.Exit(asyncio.run(work(What(paths, name, content_type, _labels(label or [])))))


def download(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The files.")],
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="PATH", help="Where to: a folder, a file, or `-` for stdout."),
    ] = ".",
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    offset: Annotated[int, typer.Option(help="From which byte on; a negative one counts from the end.")] = 0,
    limit: Annotated[int, typer.Option(min=0, help="How many bytes at the most; 0 for all.")] = 0,
    parallel: Parallel = 4,
    timeout: Timeout = 60.0,
    json_: AsJson = False,
    target: FileTarget = "",
    profile: ProfileName = "default",
    token: Token = "",
) -> None:
    """Download files, and say where they are.

    Each is written to NAME.part, and gets its name once all of it is there and has the right SHA-256. A connection that
    breaks is taken up again where it was; after Ctrl-C (130), or whatever else, the same command goes on where it was.
    """
    from services.cli.client.caller import calling_file
    from services.cli.files.download import STDOUT, What, check_output, download_files
    from services.cli.files.progress import Screen

    async def work(what: What) -> int:
        async with calling_file(profile, target, token) as caller:
            screen = Screen(files=len(ids), as_json=json_)
            return await download_files(caller, what, screen, parallel=parallel, seconds=timeout)

    with ending():
        if json_ and output == STDOUT:
            raise Failed("--json and a file cannot both go to stdout", code=EXIT_USAGE)
        what = What(ids, output, force, offset, limit)
        check_output(what)
        raise typer.Exit(asyncio.run(work(what)))


def _labels(given: list[str]) -> dict[str, str]:
    labels = {}
    for label in given:
        key, sign, value = label.partition("=")
        if not sign or key in labels:
            raise Failed(f"--label {label} is not KEY=VALUE, or the key is there twice", code=EXIT_USAGE)
        labels[key] = value
    return labels
