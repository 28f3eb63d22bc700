"""`tokens`: how many access tokens are verified in a second, remembered or not, and how many logins are done."""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import grpc
from rich.table import Table

from benchmarks.layer_server import Keys
from benchmarks.load import WrongAnswers
from benchmarks.measure import progress
from benchmarks.processes import Server, free_port
from benchmarks.report import print_table
from benchmarks.world import auth_environment, is_serving
from parley.auth.v1 import auth_service_pb2 as pb2
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from services.auth.settings import AuthSettings
from services.cli.embedded_postgres import EmbeddedPostgres
from services.kit.access import TokenVerifier
from services.kit.ids import uuid7
from services.migrations import migrate

TOKENS = 1_000
IN_FLIGHT = 8
PASSWORD = "correct horse battery staple"
LOGIN_SECONDS = 20.0
WHAT = {
    "remembered": "a token that was verified before",
    "verified": "a token that is verified every time",
    "login": "a login: throttle, Argon2id, a session, a signed token",
}


@dataclass(frozen=True)
class Pace:
    """How fast something goes; over several rounds, the median of each figure."""

    per_second: float
    cpu_us: float
    """Processor time of the process that does it, each time, in microseconds."""


@dataclass(frozen=True)
class Tokens:
    """The pace of each of WHAT."""

    paces: dict[str, Pace]
    hash_slots: int

    def show(self) -> None:
        """Print a table, and as the last line the three figures."""
        table = Table("what")
        for heading in ("a second", "CPU µs each"):
            table.add_column(heading, justify="right")
        for name, pace in self.paces.items():
            table.add_row(WHAT[name], f"{pace.per_second:,.0f}", f"{pace.cpu_us:,.1f}")
        print(f"tokens: verified in one process, and logins of one auth process with {self.hash_slots} hash slots")
        print_table(table)
        each = {name: f"{pace.per_second:,.0f}" for name, pace in self.paces.items()}
        print(
            f"tokens: {each['remembered']} verifications/s with the cache and {each['verified']} without,"
            f" {each['login']} logins/s"
        )

    def show_json(self) -> None:
        """Print everything as one JSON object."""
        paces = [{"what": name, "is": WHAT[name], **asdict(pace)} for name, pace in self.paces.items()]
        print(json.dumps({"scenario": "tokens", "hash_slots": self.hash_slots, "paces": paces}))


def run(*, rounds: int, seconds: int) -> Tokens:
    """Measure each in turns. Raises load.WrongAnswers."""
    paces: dict[str, list[Pace]] = {name: [] for name in WHAT}
    with _auth() as (server, port):
        for number in range(1, rounds + 1):
            for name, remembered in (("remembered", TOKENS), ("verified", 0)):
                paces[name].append(asyncio.run(_verify(remembered, seconds)))
            paces["login"].append(asyncio.run(_log_in(server, f"127.0.0.1:{port}", seconds)))
            said = ", ".join(f"{name} {each[-1].per_second:,.0f}/s" for name, each in paces.items())
            progress(f"round {number} of {rounds}: {said}")
    slots = int(AuthSettings.model_fields["auth_hash_slots"].default)
    return Tokens({name: _median_of(each) for name, each in paces.items()}, slots)


async def _verify(remembered: int, seconds: int) -> Pace:
    """Check tokens of many users in turns, as the wrapper around each RPC does, with so many remembered."""
    keys = Keys()
    verifier = TokenVerifier(keys, issuer="parley", audience="parley", remembered=remembered)
    tokens = [keys.token(uuid7()) for _ in range(TOKENS)]
    for token in tokens:
        await verifier.verify(token)
    count, used, started = 0, time.process_time(), time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        for token in tokens[: 50 if remembered == 0 else TOKENS]:
            if verifier.recall(token) is None:
                await verifier.verify(token)
            count += 1
    return Pace(count / elapsed, (time.process_time() - used) / count * 1e6)


async def _log_in(server: Server, address: str, seconds: int) -> Pace:
    """Keep IN_FLIGHT logins in flight, each of a user of its own."""
    async with grpc.aio.insecure_channel(address) as channel:
        auth = AuthServiceStub(channel)
        emails = [f"{uuid7()}@example.com" for _ in range(IN_FLIGHT)]
        for email in emails:
            registration = pb2.RegisterRequest(email=email, password=PASSWORD, full_name="Ann")
            await auth.Register(registration, timeout=LOGIN_SECONDS)
        used, started = server.cpu_seconds(), time.perf_counter()
        done = await asyncio.gather(*(_log_in_until(auth, email, started + seconds) for email in emails))
        elapsed = time.perf_counter() - started
        return Pace(sum(done) / elapsed, (server.cpu_seconds() - used) / sum(done) * 1e6)


async def _log_in_until(auth: AuthServiceStub, email: str, ends_at: float) -> int:
    done = 0
    while time.perf_counter() < ends_at:
        try:
            login = await auth.Login(pb2.LoginRequest(email=email, password=PASSWORD), timeout=LOGIN_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise WrongAnswers(f"a login failed with {error.code().name}: {error.details()}") from error
        if not login.tokens.access_token:
            raise WrongAnswers("a login gave no token")
        done += 1
    return done


@contextmanager
def _auth() -> Iterator[tuple[Server, int]]:
    with TemporaryDirectory(prefix="parley-benchmarks-") as name:
        folder = Path(name)
        progress("starting PostgreSQL")
        with EmbeddedPostgres.start(folder / "data", report=progress) as postgres:
            migrate(postgres.url)
            port = free_port()
            environment = auth_environment(postgres.url, folder, port)
            progress("starting auth")
            with Server.run("auth", ["-m", "services.auth"], environment, folder) as server:
                server.wait_until(lambda: is_serving(port))
                yield server, port


def _median_of(rounds: Sequence[Pace]) -> Pace:
    return Pace(median(pace.per_second for pace in rounds), median(pace.cpu_us for pace in rounds))
