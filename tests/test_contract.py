"""What holds for every proto: access, reasons, comments, and the descriptor set that other languages generate from."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from parley.agent.v1 import error_reason_pb2 as agent_reasons
from parley.auth.v1 import error_reason_pb2 as auth_reasons
from parley.chat.v1 import error_reason_pb2 as chat_reasons
from parley.common.v1 import access_pb2
from parley.common.v1 import error_reason_pb2 as common_reasons
from parley.file.v1 import error_reason_pb2 as file_reasons
from services.kit.errors import DomainError

DESCRIPTORS = Path(__file__).parent.parent / "gen" / "parley.binpb"
REASONS = {
    "services.kit": common_reasons.ErrorReason,
    "services.auth": auth_reasons.ErrorReason,
    "services.agent": agent_reasons.ErrorReason,
    "services.file": file_reasons.ErrorReason,
    "services.chat": chat_reasons.ErrorReason,
}


def descriptor_set() -> descriptor_pb2.FileDescriptorSet:
    """What a caller in another language is given."""
    return descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())


def kinds(base: type[DomainError]) -> Iterator[type[DomainError]]:
    """Every failure there is."""
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)


@pytest.mark.parametrize("package", REASONS)
def test_every_reason_in_the_protos_is_one_that_the_code_gives_and_the_reverse(package: str) -> None:
    for name in ("agent", "auth", "chat", "file"):
        importlib.import_module(f"services.{name}.wiring")
    importlib.import_module("services.kit.server")
    given = {
        kind.reason
        for kind in kinds(DomainError)
        if kind.__module__.startswith(package + ".") and "reason" in vars(kind)
    }
    common = {name.removeprefix("ERROR_REASON_") for name in common_reasons.ErrorReason.DESCRIPTOR.values_by_name}
    values = REASONS[package].DESCRIPTOR.values_by_name
    stated = {
        name.removeprefix("ERROR_REASON_") for name, value in values.items() if not value.GetOptions().deprecated
    } - {"UNSPECIFIED"}
    assert stated - given == set(), "in the proto, but never given"
    assert given - stated - common == set(), "given, but not in the proto"
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]{1,61}[A-Z0-9]", reason) for reason in given), "AIP-193's pattern"


def test_every_rpc_states_who_may_call_it() -> None:
    for file in descriptor_set().file:
        for service in file.service:
            for method in service.method:
                stated = method.options.Extensions[access_pb2.access]
                assert stated != access_pb2.ACCESS_UNSPECIFIED, f"{service.name}.{method.name}"


def test_no_rpc_but_these_is_open_to_anybody() -> None:
    public = {
        f"{service.name}.{method.name}"
        for file in descriptor_set().file
        for service in file.service
        for method in service.method
        if method.options.Extensions[access_pb2.access] == access_pb2.ACCESS_PUBLIC
    }
    assert public == {
        "AuthService.Register",
        "AuthService.Login",
        "AuthService.RefreshToken",
        "AuthService.RequestPasswordReset",
        "AuthService.ResetPassword",
        "AuthService.GetJwks",
        "AuthService.IssueServiceToken",
    }


def test_the_descriptor_set_needs_no_other_file() -> None:
    files = descriptor_set().file
    there: set[str] = set()
    for file in files:
        assert set(file.dependency) <= there, f"{file.name} before what it imports"
        there.add(file.name)
    assert {name for name in there if name.startswith("parley/")} == {
        path.relative_to(DESCRIPTORS.parent.parent / "protos").as_posix()
        for path in (DESCRIPTORS.parent.parent / "protos").rglob("*.proto")
    }


def test_every_service_rpc_message_field_and_value_has_a_comment() -> None:
    missing = []
    for path in (DESCRIPTORS.parent.parent / "protos").rglob("*.proto"):
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            starts = re.match(
                r"\s*(service|rpc|message|enum|oneof) \w+|\s*(optional |repeated )?[\w.<>, ]+ \w+ = \d+( \[|;)", line
            )
            if not starts or line.strip().startswith(("//", "option", "syntax", "package", "import", "(", "extend")):
                continue
            if not lines[number - 1].strip().startswith("//"):
                missing.append(f"{path.name}:{number + 1}: {line.strip()}")
    assert missing == []
