"""From bytes to a valid message: every violation has the path that the caller wrote, and NUL gets in nowhere."""

from time import process_time
from typing import Any

import pytest
from google.protobuf import struct_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc.error_details_pb2 import BadRequest

from parley.agent.v1 import agent_service_pb2 as agent_pb2
from parley.auth.v1 import auth_service_pb2 as auth_pb2
from parley.chat.v1 import chat_service_pb2 as chat_pb2
from parley.file.v1 import file_service_pb2 as file_pb2
from services.kit.errors import RequestMalformed, RequestTooLarge, ValidationFailed
from services.kit.messages import Decoder, check
from services.kit.status import MAX_VIOLATIONS, to_rpc_status
from tests.support import detail

ROOM = "0198c0de-0000-7000-8000-000000000001"


def fields_of(error: ValidationFailed) -> list[str]:
    return [violation.field for violation in error.fields]


def test_every_field_that_breaks_a_rule_is_named() -> None:
    decoder = Decoder(auth_pb2.RegisterRequest)
    with pytest.raises(ValidationFailed) as caught:
        decoder.decode(auth_pb2.RegisterRequest(email="no address", password="short").SerializeToString())
    assert set(fields_of(caught.value)) == {"email", "full_name", "password"}
    assert all(violation.description for violation in caught.value.fields)


def test_a_violation_in_a_list_is_named_by_its_index() -> None:
    hello = chat_pb2.ConnectRequest.Hello(
        cursors=[
            chat_pb2.ConnectRequest.Subscribe(room_id=ROOM),
            chat_pb2.ConnectRequest.Subscribe(room_id="no id", after_sequence=-1),
        ]
    )
    with pytest.raises(ValidationFailed) as caught:
        check(chat_pb2.ConnectRequest(hello=hello))
    assert sorted(fields_of(caught.value)) == ["hello.cursors[1].after_sequence", "hello.cursors[1].room_id"]


def test_a_list_full_of_violations_is_refused_at_once() -> None:
    raw = chat_pb2.ConnectRequest(
        hello=chat_pb2.ConnectRequest.Hello(cursors=[chat_pb2.ConnectRequest.Subscribe()] * 100_000)
    ).SerializeToString()
    started = process_time()
    with pytest.raises(ValidationFailed) as caught:
        Decoder(chat_pb2.ConnectRequest).decode(raw)
    assert process_time() - started < 0.5  # All violations would take 3 s here, and 20 s in a message of 1 MB.
    assert fields_of(caught.value) == ["hello.cursors"]


def test_a_required_choice_is_named() -> None:
    with pytest.raises(ValidationFailed) as caught:
        Decoder(chat_pb2.ConnectRequest).decode(b"")
    assert fields_of(caught.value) == ["intent"]


def test_a_status_stays_small_enough_for_its_trailers_whatever_was_wrong() -> None:
    request = agent_pb2.CreateAgentRequest(name="nnn", model_name="echo-1", system_prompt="long enough")
    for number in range(90):
        request.config.fields["key" * 900 + str(number)].string_value = "a\0b"
    with pytest.raises(ValidationFailed) as caught:
        check(request)
    assert len(caught.value.fields) == 90
    status = to_rpc_status(caught.value)
    assert status.ByteSize() < 4096
    bad = detail(status, BadRequest)
    assert bad is not None
    assert len(bad.field_violations) == MAX_VIOLATIONS


@pytest.mark.parametrize("raw", [b"\x0a\x7f", b"\x0a\x02\xff\xfe", b"\xff", b"\x0b"])
def test_bytes_that_are_no_message_are_malformed(raw: bytes) -> None:
    with pytest.raises(RequestMalformed):
        Decoder(agent_pb2.GetAgentRequest).decode(raw)


def test_a_message_nested_beyond_all_measure_is_malformed() -> None:
    raw = b""
    for _ in range(200):
        raw = b"\x0a" + _varint(len(raw)) + raw  # Value.list_value -> ListValue.values -> …
        raw = b"\x32" + _varint(len(raw)) + raw
    with pytest.raises(RequestMalformed):
        Decoder(struct_pb2.Value).decode(raw)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def creating(**changed: object) -> agent_pb2.CreateAgentRequest:
    given = {"name": "helper", "model_name": "echo-1", "system_prompt": "Be of some help."} | changed
    return agent_pb2.CreateAgentRequest(**given)  # type: ignore[arg-type]  # fields by name


def configured(**config: Any) -> agent_pb2.CreateAgentRequest:
    request = creating()
    request.config.update(config)
    return request


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (creating(description="a\0b"), "description"),
        (configured(key="a\0b"), "config.fields['key'].string_value"),
        (configured(**{"a\0b": 1}), "config.fields"),
        (configured(outer={"a\0b": {"inner": 1}}), "config.fields['outer'].struct_value.fields"),
        (configured(many=[1, "a\0b"]), "config.fields['many'].list_value.values.string_value"),
        (
            agent_pb2.UpdateAgentRequest(
                id=ROOM, agent=agent_pb2.AgentPatch(name="a"), update_mask=FieldMask(paths=["a\0b"])
            ),
            "update_mask.paths",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nul_is_refused_wherever_a_string_can_hold_it(message: agent_pb2.CreateAgentRequest, path: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        Decoder(type(message)).decode(message.SerializeToString())
    assert fields_of(caught.value) == [path]


def test_nul_in_bytes_is_data() -> None:
    chunk = file_pb2.UploadFileRequest(chunk=file_pb2.UploadChunk(data=b"\0\0"))
    assert Decoder(file_pb2.UploadFileRequest).decode(chunk.SerializeToString()) == chunk


def test_a_valid_message_comes_out_as_it_went_in() -> None:
    request = configured(temperature=0.5, tools=["search"], nested={"deep": None})
    assert Decoder(agent_pb2.CreateAgentRequest).decode(request.SerializeToString()) == request


def test_a_request_is_bounded_unless_it_carries_a_files_bytes() -> None:
    hello = chat_pb2.ConnectRequest.Hello(cursors=[chat_pb2.ConnectRequest.Subscribe()] * 300_000)
    with pytest.raises(RequestTooLarge):
        Decoder(chat_pb2.ConnectRequest).decode(chat_pb2.ConnectRequest(hello=hello).SerializeToString())
    chunk = file_pb2.UploadFileRequest(chunk=file_pb2.UploadChunk(data=bytes(2 * 2**20)))
    assert Decoder(file_pb2.UploadFileRequest).decode(chunk.SerializeToString()) == chunk


def test_the_largest_agent_that_is_within_its_rules_fits() -> None:
    request = agent_pb2.CreateAgentRequest(
        name="n" * 64, model_name="m" * 100, system_prompt="\U0001f600" * 32_768, description="\U0001f600" * 2_000
    )
    request.config.update({f"k{number}": None for number in range(5_000)})  # about 64 KiB as JSON
    assert Decoder(agent_pb2.CreateAgentRequest).decode(request.SerializeToString()) == request
