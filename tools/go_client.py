"""The client in Go: `python -m tools.go_client` generates its stubs from `gen/parley.binpb`, and builds its programs.

Stubs and programs are in `.build/go`. It needs Go, which fetches the modules and verifies their checksums.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

from google.protobuf import descriptor_pb2

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "clients" / "go"
BUILD = ROOT / ".build" / "go"
PROGRAMS = BUILD / "bin"
NEEDS_GO = "1.25"
PLUGINS = (
    "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12",
    "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2",
)
MODULE = "parley/clients"


class ClientUnbuilt(Exception):
    """The client could not be built: the text says why, and what to do."""


def main() -> int:
    """Build; the exit code."""
    try:
        build()
    except ClientUnbuilt as reason:
        print(f"go_client: {reason}", file=sys.stderr)
        return 1
    return 0


def build() -> None:
    """Have the programs of `clients/go` in PROGRAMS, as they and the protos are now. Raises ClientUnbuilt."""
    if shutil.which("go") is None:
        raise ClientUnbuilt(f"it is built with Go {NEEDS_GO} or newer, and there is no `go` on the PATH")
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    if not all((PROGRAMS / _name(plugin)).exists() for plugin in PLUGINS):
        print("Building the Go client (the first time takes a minute) ...", flush=True)
    for plugin in PLUGINS:
        if not (PROGRAMS / _name(plugin)).exists():
            _run("go", "install", plugin, folder=BUILD)
    module = BUILD / "module"
    shutil.rmtree(module, ignore_errors=True)
    shutil.copytree(SOURCE, module)
    _generate(module / "gen")
    _run("go", "build", "-o", f"{PROGRAMS}/", "./...", folder=module)


def _generate(folder: Path) -> None:
    """The stubs of our protos and of those that they import, but for Google's, which are modules of Go."""
    descriptors = ROOT / "gen" / "parley.binpb"
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes()).file
    protos = [file.name for file in files if not file.name.startswith("google/")]
    options = ",".join(["paths=source_relative", *(f"M{proto}={_package(proto)}" for proto in protos)])
    folder.mkdir()
    outputs = [f"--{kind}_{what}" for kind in ("go", "go-grpc") for what in (f"out={folder}", f"opt={options}")]
    _run(
        sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_in={descriptors}", *outputs, *protos, folder=ROOT
    )


def _package(proto: str) -> str:
    """The package of Go that a proto's code is in: `filev1` for `parley/file/v1`."""
    folder = PurePosixPath(proto).parent
    return f"{MODULE}/gen/{folder};{''.join(folder.parts[-2:])}"


def _run(*command: str, folder: Path) -> None:
    """Run a tool. Raises ClientUnbuilt with what it said."""
    ours = {"GOBIN": str(PROGRAMS), "PATH": os.pathsep.join((str(PROGRAMS), os.environ["PATH"]))}
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | ours,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ClientUnbuilt(f"{' '.join(command[:3])} failed (it needs Go {NEEDS_GO} or newer):\n{done.stdout}")


def _name(plugin: str) -> str:
    """The program's name: that of the last folder of its package."""
    return PurePosixPath(plugin.partition("@")[0]).name


if __name__ == "__main__":
    sys.exit(main())
