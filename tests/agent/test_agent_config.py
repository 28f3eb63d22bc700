"""Agent.config: kept without loss, or refused."""

import math
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct

from parley.agent.v1 import agent_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from tests.support import raises_status

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
LARGEST = 2**53 - 1


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"end": True}
    for _ in range(levels - 1):
        value = {"in": value}
    return value


def nested_lists(levels: int) -> dict[str, Any]:
    value: list[Any] = []
    for _ in range(levels - 2):
        value = [value]
    return {"in": value}


async def test_what_fits_comes_back_as_it_was(
    agents: AgentServiceStub, create: Any, as_user: Any, subtests: pytest.Subtests
) -> None:
    configs: list[dict[str, Any]] = [
        {},
        {"": ""},
        {"n": LARGEST, "m": -LARGEST, "f": 0.1, "small": 5e-324, "zero": 0, "half": -0.5},
        {"on": True, "off": False, "none": None, "list": [], "map": {}},
        {"text": 'ü 漢字 \U0001f600 \\ " \n', "ключ": ["a", 1, [2, {"b": None}]]},
        {"text": "x" * (64 * 1024 - len('{"text":""}'))},
        nested(32),
        nested_lists(32),
    ]
    for config in configs:
        with subtests.test(str(config)[:60]):
            sent = Struct()
            sent.update(config)
            agent = await create(as_user("ann"), config=config)
            assert agent.config == sent
            got = await agents.GetAgent(pb2.GetAgentRequest(id=agent.id), metadata=as_user("ann"))
            assert got.agent.config == sent


async def test_what_would_be_lost_is_refused(
    agents: AgentServiceStub, create: Any, as_user: Any, subtests: pytest.Subtests
) -> None:
    cases: dict[str, dict[str, Any]] = {
        "an integer that was rounded on its way": {"n": 2**53 + 1},
        "a negative one": {"n": -(2**53)},
        "a huge number within a list": {"deep": [{"n": 1e300}]},
        "not a number": {"n": math.nan},
        "infinity": {"n": [math.inf]},
        "negative infinity": {"n": -math.inf},
        "one byte too many": {"text": "x" * (64 * 1024 - len('{"text":""}') + 1)},
        "bytes count, not characters": {"text": "ü" * 33_000},
        "one level too deep": nested(33),
        "one level too deep in lists": nested_lists(33),
    }
    for case, config in cases.items():
        with subtests.test(case):
            with raises_status(INVALID_ARGUMENT, "CONFIG_INVALID", fields=["config"]):
                await create(as_user("ann"), config=config)

            agent = await create(as_user("ann"), config={"kept": 1})
            with raises_status(INVALID_ARGUMENT, "CONFIG_INVALID", fields=["agent.config"]):
                request = pb2.UpdateAgentRequest(id=agent.id, update_mask=FieldMask(paths=["config"]))
                request.agent.config.update(config)
                await agents.UpdateAgent(request, metadata=as_user("ann"))
            assert (await agents.GetAgent(pb2.GetAgentRequest(id=agent.id), metadata=as_user("ann"))).agent == agent


async def test_a_string_that_the_database_cannot_keep_is_refused(
    create: Any, as_user: Any, subtests: pytest.Subtests
) -> None:
    for config in [{"text": "a\0b"}, {"a\0b": 1}, {"list": [{"in": "\0"}]}]:
        with subtests.test(str(config)[:60]), raises_status(INVALID_ARGUMENT, "VALIDATION_FAILED"):
            await create(as_user("ann"), config=config)
