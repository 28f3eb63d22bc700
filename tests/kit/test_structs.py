"""JSON objects and moments in messages: the same as protobuf's own ways make of them."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from parley.agent.v1 import agent_service_pb2 as pb2
from services.kit.structs import fill
from services.kit.timestamps import stamp, to_timestamp

_NUMBERS = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
_TEXT = st.text(st.characters(codec="utf-8"))
_JSON: Any = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXT,
    lambda item: st.lists(item) | st.dictionaries(_TEXT, item),
    max_leaves=20,
)


@given(st.dictionaries(_TEXT, _JSON))
def test_a_struct_that_was_filled_is_the_one_that_protobuf_makes(content: dict[str, Any]) -> None:
    content = json.loads(json.dumps(content))
    expected = Struct()
    expected.update(content)
    agent = pb2.Agent()
    fill(agent.config, content)
    assert agent.config == expected


def test_objects_and_lists_that_are_empty_are_there() -> None:
    agent = pb2.Agent()
    fill(agent.config, {"object": {}, "list": [], "deep": [{}, [], None, False, 0, ""]})
    assert MessageToDict(agent.config) == {"object": {}, "list": [], "deep": [{}, [], None, False, 0, ""]}
    empty = pb2.Agent()
    fill(empty.config, {})
    assert empty.HasField("config")


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-5))])))
def test_a_moment_becomes_the_timestamp_that_protobuf_makes(moment: datetime) -> None:
    expected = Timestamp()
    expected.FromDatetime(moment)
    assert to_timestamp(moment) == expected
    agent = pb2.Agent()
    stamp(agent.create_time, moment)
    assert agent.create_time == expected
    assert agent.HasField("create_time")
