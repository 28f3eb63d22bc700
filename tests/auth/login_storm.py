"""`python -m tests.auth.login_storm <address> <password> <email>…`: a login of each address, all at once.

It says `ready` when it is connected and begins when it gets a line. A login that is refused is tried again when the
refusal says. At the end it says, as JSON, how often each status came and whether it told when to retry.
"""

import asyncio
import json
import os
import sys
from collections import Counter

import grpc
from google.rpc import error_details_pb2 as details_pb2

from parley.auth.v1 import auth_service_pb2 as pb2
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from tests.support import detail, status_of

CHANNELS = 4  # a connection takes 100 calls at a time, and the others would wait in the client
SECONDS = 60.0


async def storm(address: str, password: str, emails: list[str]) -> Counter[str]:
    """Log in with all of them at once."""
    own = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options=own) for _ in range(CHANNELS)]
    try:
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        stubs = [AuthServiceStub(channel) for channel in channels]
        statuses: Counter[str] = Counter()
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(
                *(_login(stubs[number % CHANNELS], password, email, statuses) for number, email in enumerate(emails))
            )
        return statuses
    finally:
        for channel in channels:
            await channel.close()


async def _login(stub: AuthServiceStub, password: str, email: str, statuses: Counter[str]) -> None:
    """Log in, trying again when the server says so, as long as it refuses politely."""
    while True:
        try:
            await stub.Login(pb2.LoginRequest(email=email, password=password), timeout=SECONDS)
        except grpc.aio.AioRpcError as error:
            told = detail(status_of(error), details_pb2.RetryInfo)
            statuses[f"{error.code().name}{'' if told is None else ' with RetryInfo'}"] += 1
            if told is None:
                return
            await asyncio.sleep(told.retry_delay.ToTimedelta().total_seconds())
        else:
            statuses["OK"] += 1
            return


if __name__ == "__main__":
    # It stands for two hundred other machines: it must not take the server's share of this one.
    os.nice(10)
    sys.stdout.write(json.dumps(asyncio.run(storm(sys.argv[1], sys.argv[2], sys.argv[3:]))) + "\n")
