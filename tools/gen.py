"""Generate everything that comes from the protos: `make gen`.

Writes `gen/python` (modules, stubs, type markers) and `gen/parley.binpb` (descriptors, with imports and
comments). The same protos and the same locked tools give the same bytes.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GEN = ROOT / "gen"
GENERATED = ("python", "parley.binpb")

# The engine's wheel holds no proto, and the proto of its rules is not copied into this repository: it is read
# from the source archive of the last release that carries it.
VALIDATE_PACKAGE = "protovalidate==1.2.0"
VALIDATE_SHA256 = "4cb9a5065f32abc9baf2cf25c5bd09a139f7dffb7b8692f636a8e3e6883bb9a2"
VALIDATE_MEMBER = "protovalidate-1.2.0/upstream/proto/buf/validate/validate.proto"
VALIDATE_PROTO = ROOT / ".build" / "protovalidate" / "buf" / "validate" / "validate.proto"

TYPED_PACKAGES = ("parley", "buf")


def main() -> int:
    """Generate, and replace only what differs."""
    try:
        ensure_validate_proto()
        with tempfile.TemporaryDirectory() as folder:
            fresh = Path(folder)
            generate(fresh)
            written, removed = replace(fresh, GEN)
    except subprocess.CalledProcessError as error:
        print(error.output, end="", file=sys.stderr)
        return error.returncode or 1
    print(f"gen: {written} files written, {removed} removed")
    return 0


def environment() -> dict[str, str]:
    """The environment for buf and its plugins: this interpreter's programs first, and a cache of its own."""
    programs = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": os.pathsep.join((programs, os.environ.get("PATH", os.defpath))),
        "BUF_CACHE_DIR": str(ROOT / ".build" / "buf"),
    }


def run(*command: str | Path) -> None:
    """Run a tool in the project's root; a failure raises, with all that the tool said as its output."""
    subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )


def ensure_validate_proto() -> None:
    """Put validate.proto where buf.yaml expects it; does nothing when it is there."""
    if VALIDATE_PROTO.exists():
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wanted = folder / "requirements.txt"
        wanted.write_text(f"{VALIDATE_PACKAGE} --hash=sha256:{VALIDATE_SHA256}\n")
        pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download")
        # Without isolation: the backend that pip asks for the archive's metadata is installed already.
        options = ("--no-deps", "--no-binary=:all:", "--no-build-isolation", "--require-hashes")
        run(*pip, *options, "--dest", folder, "--requirement", wanted)
        (archive,) = folder.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            content = b"".join(tar.extractfile(VALIDATE_MEMBER) or ())
    VALIDATE_PROTO.parent.mkdir(parents=True, exist_ok=True)
    unfinished = VALIDATE_PROTO.with_name(f"{VALIDATE_PROTO.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(VALIDATE_PROTO)


def generate(folder: Path) -> None:
    """Generate everything into `folder`."""
    run("buf", "generate", "--output", folder)
    run("buf", "build", "protos", "--as-file-descriptor-set", "--output", folder / "parley.binpb")
    for stub in (folder / "python").rglob("*_pb2_grpc.pyi"):
        if not stub.with_suffix(".py").exists():
            stub.unlink()  # of a file that declares no service: it would promise a module that is not there
    for package in TYPED_PACKAGES:
        (folder / "python" / package / "py.typed").touch()


def contents(folder: Path) -> dict[str, bytes]:
    """The generated files below `folder` by their path; what Python leaves beside them is not counted."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for top in GENERATED
        for path in (folder / top, *(folder / top).rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }


def replace(fresh: Path, target: Path) -> tuple[int, int]:
    """Make the generated files of `target` those of `fresh`, and say how many were written and removed."""
    new, old = contents(fresh), contents(target)
    changed = [name for name in new if new[name] != old.get(name)]
    for name in changed:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(fresh / name, target / name)
    removed = old.keys() - new.keys()
    for name in removed:
        (target / name).unlink()
    return len(changed), len(removed)


if __name__ == "__main__":
    sys.exit(main())
