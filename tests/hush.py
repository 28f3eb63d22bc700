"""For the proof that secrets stay inside: what is secret, real processes that write logs, and what they left behind."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct

from services.auth.domain.secret import Secret
from services.cli.postgres_host import find_program_files
from services.kit import base64url
from tests.canaries import forms
from tests.cli.processes_seen import ROOT
from tests.cli.test_demo import free_ports

STOP_SECONDS = 20.0
SECRET_FIELDS = {
    "password",
    "current_password",
    "new_password",
    "code",
    "refresh_token",
    "client_secret",
    "access_token",
}


class Secrets:
    """What must not be found, under a name that tells what it is without repeating it."""

    def __init__(self) -> None:
        self._forms: dict[str, str] = {}

    def add(self, what: str, secret: str | bytes) -> None:
        """A secret, in all forms in which it could be written down; so, too, the bytes that a base64url stands for."""
        raw = secret if isinstance(secret, bytes) else secret.encode()
        assert len(raw) >= 12, "too short to be looked for"
        self._forms |= {text: f"{what} as {form}" for form, text in forms(raw).items()}
        if isinstance(secret, str) and re.fullmatch(r"[A-Za-z0-9_-]{43}", secret):
            self.add(f"the bytes of {what}", base64url.decode(secret))

    def add_token(self, what: str, token: str) -> None:
        """An access token: none of its parts may be found that tell anything, nor its signature."""
        _, payload, signature = token.split(".")
        self._forms |= {payload: f"{what}'s payload", signature: f"{what}'s signature"}

    def add_code(self, what: str, code: str) -> None:
        """A mailed code, however it is typed."""
        for written in (
            code,
            code.lower(),
            code.replace("-", ""),
            code.replace("-", "").lower(),
            code.replace("-", " "),
        ):
            self.add(what, written)

    def add_key(self, what: str, private: bytes) -> None:
        """A private key: its bytes, and the body of its PEM."""
        self.add(what, private)
        pem = Ed25519PrivateKey.from_private_bytes(private).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        self._forms[pem.decode().splitlines()[1]] = f"{what} as PEM"

    def found_in(self, text: str) -> list[str]:
        """Which of them a text has in it."""
        return sorted({what for form, what in self._forms.items() if form in text})

    def __len__(self) -> int:
        return len(self._forms)


class Processes:
    """Services and workers as real processes on one database, each with a log of its own."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self._url = database_url
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, service: str, log_format: str, auth_port: int) -> str:
        """Start a service, or the worker; its address."""
        port = auth_port if service == "auth" else free_ports(1)[0]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
        ours = {
            "PARLEY_DATABASE_URL": self._url,
            "PARLEY_DATA_DIR": str(self.data_dir),
            "PARLEY_LOG_FORMAT": log_format,
            "PARLEY_LOG_LEVEL": "debug",
            "PARLEY_AUTH_PORT": str(auth_port),
            f"PARLEY_{service.upper()}_PORT": str(port),
        }
        what = ["worker"] if service == "worker" else ["serve", service]
        with (self.folder / f"{service}-{log_format}.log").open("wb") as log:
            self._running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "services.cli", *what],
                    env=inherited | ours,
                    cwd=ROOT,
                    stdout=log,
                    stderr=log,
                )
            )
        return f"127.0.0.1:{port}"

    def stop(self) -> dict[str, int]:
        """End them all in order; their exit codes, by pid."""
        for process in self._running:
            process.send_signal(signal.SIGTERM)
        try:
            return {str(process.args): process.wait(STOP_SECONDS) for process in self._running}
        finally:
            for process in self._running:
                process.kill()
                process.wait()
            self._running.clear()

    def logs(self) -> Mapping[str, str]:
        """What each has written."""
        return {path.stem: path.read_text() for path in sorted(self.folder.glob("*.log"))}


@contextmanager
def processes(database_url: str, folder: Path) -> Iterator[Processes]:
    """None of them is left at the end of the block."""
    with ExitStack() as stack:
        started = Processes(database_url, folder)
        stack.callback(started.stop)
        yield started


def dump_of(database_url: str) -> str:
    """The whole database as `pg_dump` writes it."""
    program = find_program_files(None) / "bin" / "pg_dump"
    command = [str(program), "--inserts", f"--dbname={database_url}"]
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout.decode()


def private_keys(database_url: str, secret: Secret) -> dict[str, bytes]:
    """The signing keys in the database, decrypted, by `kid`."""
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT kid, private_key FROM auth.signing_keys").fetchall()
    return {kid: secret.decrypt(bytes(sealed), kid) for kid, sealed in rows}


def filled(kind: Any, name: str, make: Any) -> list[Message]:
    """Messages of a type with something in every string that can be there at once: one for each case of its oneofs."""
    cases: Sequence[Any] = [field for oneof in kind.oneofs for field in oneof.fields] or [None]
    messages = []
    for case in cases:
        message = GetMessageClass(kind)()
        for field in kind.fields:
            if field.containing_oneof is None or field is case:
                _fill(message, field, f"{name}.{field.name}", make)
        messages.append(message)
    return messages


def _fill(message: Message, field: Any, name: str, make: Any) -> None:
    if field.type == FieldDescriptor.TYPE_STRING:
        said = make(name, field.name in SECRET_FIELDS)
        if field.is_repeated:
            getattr(message, field.name).append(said)
        else:
            setattr(message, field.name, said)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        if field.message_type.full_name == Struct.DESCRIPTOR.full_name:
            getattr(message, field.name).update({make(f"{name} key", False): make(f"{name} value", False)})
        elif not field.message_type.GetOptions().map_entry and not field.message_type.full_name.startswith("google."):
            (part,) = filled(field.message_type, name, make)[:1]
            inner = getattr(message, field.name)
            (inner.add() if field.is_repeated else inner).CopyFrom(part)
