"""A storm of logins on one auth process: its health check stays quick, refusals are polite, memory is bounded."""

import asyncio
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psycopg
import pytest
from argon2 import PasswordHasher
from grpc_health.v1 import health_pb2, health_pb2_grpc

from parley.auth.v1 import auth_service_pb2 as pb2
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from services.kit.ids import uuid7
from tests.cli.processes_seen import ROOT
from tests.service_process import channel_to, service_process

pytestmark = pytest.mark.slow

PASSWORD = "correct horse battery staple"
USERS = 50
LOGINS = 200
HASH_SLOTS = 2
HASH_BYTES = 19 * 2**20
OTHER_BYTES = 64 * 2**20
P99_SECONDS = 0.100
CHECK_INTERVAL = 0.02
LEAST_CHECKS = 30  # fewer than 100 are judged by their slowest, which is stricter
# Something else may run on the machine. An idle process of the same kind shows how much of the time is the machine's:
# the first attempt in which that one is quick decides, or else the one in which it is quickest. Not the server's best.
ATTEMPTS = 3
QUIET_SECONDS = 0.050
DEADLINE = 60.0


@contextmanager
def storm(address: str, emails: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """A client in a process of its own that waits for the word to log in with all of these at once."""
    command = [sys.executable, "-m", "tests.auth.login_storm", address, PASSWORD, *emails]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def add_users(database_url: str) -> list[str]:
    """Users with PASSWORD, by their addresses."""
    hashed = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1).hash(PASSWORD)
    emails = [f"user.{number}@example.com" for number in range(USERS)]
    with psycopg.connect(database_url) as connection:
        connection.cursor().executemany(
            "INSERT INTO auth.users (id, email, email_key, full_name, password_hash, create_time, update_time)"
            " VALUES (%s, %s, %s, 'Somebody', %s, now(), now())",
            [(uuid7(), email, email, hashed) for email in emails],
        )
    return emails


async def login(auth: AuthServiceStub, email: str) -> None:
    """Log in, trying again for as long as it is refused for the moment."""
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                await auth.Login(pb2.LoginRequest(email=email, password=PASSWORD), timeout=DEADLINE)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                await asyncio.sleep(0.1)
            else:
                return


async def test_two_hundred_logins_at_once_leave_the_server_alive_and_its_memory_bounded(
    database_url: str, tmp_path: Path
) -> None:
    emails = add_users(database_url)
    slots = {"PARLEY_AUTH_HASH_SLOTS": str(HASH_SLOTS)}
    with (
        service_process("auth", database_url, tmp_path, "auth", **slots) as server,
        service_process("auth", database_url, tmp_path, "idle", **slots) as idle,
    ):
        async with (
            channel_to(server.address) as to_server,
            channel_to(idle.address) as to_idle,
            channel_to(server.address) as for_logins,
        ):
            healths = [health_pb2_grpc.HealthStub(channel) for channel in (to_server, to_idle)]
            auth = AuthServiceStub(for_logins)
            await server.until_serving()
            await idle.until_serving()
            for email in emails[:HASH_SLOTS]:
                await login(auth, email)  # So that everything has been used once, and idle is idle.
            memory_before = server.memory()
            attempts = []
            for _ in range(ATTEMPTS):
                with storm(server.address, [emails[number % USERS] for number in range(LOGINS)]) as client:
                    outcome, (p99, idle_p99) = await weather(client, healths)
                assert set(outcome) <= {"OK", "RESOURCE_EXHAUSTED with RetryInfo"}, outcome
                assert outcome["OK"] == LOGINS, outcome
                attempts.append((idle_p99, p99))
                if idle_p99 < QUIET_SECONDS:
                    break
            most = memory_before + HASH_SLOTS * HASH_BYTES + OTHER_BYTES
            peak = server.peak_memory()
            assert peak <= most, f"{peak / 2**20:.0f} MiB, idle {memory_before / 2**20:.0f} MiB"
            await asyncio.gather(*(login(auth, email) for email in emails))
            idle_p99, p99 = min(attempts)
            # What a process without anything to do takes longer on a busy machine is not the storm's doing.
            limit = P99_SECONDS + (0 if idle_p99 < QUIET_SECONDS else idle_p99)
            assert p99 < limit, f"p99 of checks {p99:.3f} s, of those of an idle process {idle_p99:.3f} s"


async def weather(
    client: "subprocess.Popen[str]", healths: list[health_pb2_grpc.HealthStub]
) -> tuple[dict[str, int], list[float]]:
    """Let the storm loose. How its logins ended, and the p99 of the checks of each server meanwhile, in seconds.

    A check is sent every 20 ms, whether those before it are answered or not: one that waited for them would count a
    server that stands still for seconds as one slow check.
    """
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write("go\n")
    client.stdin.flush()
    ended = asyncio.create_task(asyncio.to_thread(client.stdout.readline))
    checks: list[list[asyncio.Task[float]]] = [[] for _ in healths]
    while not ended.done():
        for health, sent in zip(healths, checks, strict=True):
            sent.append(asyncio.create_task(check(health)))
        await asyncio.sleep(CHECK_INTERVAL)
    times = [sorted(await asyncio.gather(*sent)) for sent in checks]
    assert all(len(each) >= LEAST_CHECKS for each in times)
    return json.loads(await ended), [each[len(each) * 99 // 100] for each in times]


async def check(health: health_pb2_grpc.HealthStub) -> float:
    """How long one check takes, in seconds; one that fails takes for ever."""
    started = time.perf_counter()
    try:
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
    except grpc.aio.AioRpcError:
        return math.inf
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    return time.perf_counter() - started
