"""`python -m tests.agent.run_storm <address> <token> <agent id> <executions> <deltas>`: run and watch, many at a time.

It says `ready` when it is connected and begins when it gets a line. At the end it says as JSON of all streams together
how many ended well with the whole text, how long the text took from the provider to here (p50, p99, most, in seconds),
and how many responses came.
"""

import asyncio
import json
import sys
import time
from typing import Any

import grpc

from parley.agent.v1 import execution_service_pb2 as pb2
from parley.agent.v1.execution_service_pb2_grpc import ExecutionServiceStub
from tests.support import Metadata, bearer

STREAMS_PER_CHANNEL = 100  # as many calls as a connection takes at a time
SECONDS = 120.0


class Outcome:
    """What all streams together have seen."""

    def __init__(self) -> None:
        self.whole = 0
        self.responses = 0
        self.delays: list[float] = []
        self.failures: list[str] = []

    def summary(self) -> dict[str, Any]:
        """The same in a few numbers."""
        delays = sorted(self.delays)
        return {
            "whole": self.whole,
            "responses": self.responses,
            "p50": delays[len(delays) // 2],
            "p99": delays[len(delays) * 99 // 100],
            "most": delays[-1],
            "failures": self.failures[:3],
        }


async def follow(stub: ExecutionServiceStub, metadata: Metadata, agent_id: str, text: str, outcome: Outcome) -> None:
    """Run one execution and see every event of it, once and in order."""
    request = pb2.RunExecutionRequest(agent_id=agent_id, input=text)
    call = stub.RunExecution(request, metadata=metadata, timeout=SECONDS)
    said, sequence, state = b"", 0, pb2.EXECUTION_STATE_UNSPECIFIED
    try:
        async for response in call:
            now = time.time()
            outcome.responses += 1
            for event in response.events:
                if event.sequence != sequence + 1:
                    outcome.failures.append(f"{event.sequence} after {sequence}")
                sequence = event.sequence
                if event.HasField("text_delta"):
                    created = event.create_time
                    outcome.delays.append(now - created.seconds - created.nanos / 1e9)
                    said = said[: event.text_delta.offset] + event.text_delta.text.encode()
                elif event.HasField("state_changed"):
                    state = event.state_changed.state
    except grpc.aio.AioRpcError as error:
        outcome.failures.append(f"{error.code().name}: {error.details()}")
    finally:
        call.cancel()
    if said == text.encode() and state == pb2.EXECUTION_STATE_SUCCEEDED:
        outcome.whole += 1


async def storm(address: str, token: str, agent_id: str, executions: int, deltas: int) -> Outcome:
    """Run them all at once."""
    own = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options=own) for _ in range(-(-executions // STREAMS_PER_CHANNEL))]
    text = " ".join(f"w{n:04}" for n in range(deltas))
    outcome = Outcome()
    try:
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        stubs = [ExecutionServiceStub(channel) for channel in channels]
        await asyncio.gather(
            *(
                follow(stubs[number // STREAMS_PER_CHANNEL], bearer(token), agent_id, text, outcome)
                for number in range(executions)
            )
        )
    finally:
        for channel in channels:
            await channel.close()
    return outcome


if __name__ == "__main__":
    address, token, agent_id, executions, deltas = sys.argv[1:]
    done = asyncio.run(storm(address, token, agent_id, int(executions), int(deltas)))
    sys.stdout.write(json.dumps(done.summary()) + "\n")
