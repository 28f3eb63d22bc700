"""Every failure has a documented reason, and every documented reason is given by some failure."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from datetime import timedelta

import grpc
import pytest
from google.rpc import error_details_pb2 as details_pb2
from google.rpc import status_pb2

import services.kit
from parley.common.v1 import error_reason_pb2
from services.kit.errors import (
    Aborted,
    DataLoss,
    DomainError,
    FieldViolation,
    NotFound,
    OutOfRange,
    Overloaded,
    QuotaViolation,
    ValidationFailed,
)
from services.kit.status import code_of, to_rpc_status, to_stream_status
from tests.support import detail

# AIP-193: UPPER_SNAKE_CASE, at most 63 characters.
REASON_PATTERN = re.compile(r"[A-Z][A-Z0-9_]{1,61}[A-Z0-9]")


def failures_of_the_kit() -> list[type[DomainError]]:
    """Every class of the kit that has a reason."""
    for module in pkgutil.iter_modules(services.kit.__path__, "services.kit."):
        importlib.import_module(module.name)

    def below(kind: type[DomainError]) -> Iterator[type[DomainError]]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    return [
        kind for kind in below(DomainError) if kind.__module__.startswith("services.kit.") and hasattr(kind, "reason")
    ]


def test_every_reason_of_the_kit_is_documented_and_every_documented_reason_is_given() -> None:
    documented = {
        name.removeprefix("ERROR_REASON_")
        for name, number in error_reason_pb2.ErrorReason.items()
        if number != error_reason_pb2.ERROR_REASON_UNSPECIFIED
    }
    assert {kind.reason for kind in failures_of_the_kit()} == documented


@pytest.mark.parametrize("failure", failures_of_the_kit(), ids=lambda kind: kind.__name__)
def test_a_failure_has_a_code_a_well_formed_reason_and_one_sentence(failure: type[DomainError]) -> None:
    error = failure()
    assert REASON_PATTERN.fullmatch(error.reason)
    assert code_of(error) != grpc.StatusCode.OK
    assert re.fullmatch(r"[A-Z][^\n]+\.", str(error))


def test_one_reason_has_one_code() -> None:
    codes: dict[str, set[str]] = {}
    for kind in failures_of_the_kit():
        codes.setdefault(kind.reason, set()).add(code_of(kind()).name)
    assert not {reason: found for reason, found in codes.items() if len(found) > 1}


class _Whole(Aborted):
    """A failure that takes so many words to describe that its one sentence goes on in the second
    line.
    """  # noqa: D205  # what is tested

    reason = "WHOLE"


def test_a_status_carries_all_that_a_failure_knows() -> None:
    error = _Whole(
        fields=[FieldViolation("agent.name", "too short")],
        quota=[QuotaViolation("user:7", "no more than 3")],
        retry_after=timedelta(milliseconds=1500),
        metadata={"expected_offset": "7"},
    )
    assert str(error).endswith("goes on in the second line.")
    status = to_rpc_status(error)
    assert (status.code, status.message) == (grpc.StatusCode.ABORTED.value[0], str(error))
    info = detail(status, details_pb2.ErrorInfo)
    bad = detail(status, details_pb2.BadRequest)
    quota = detail(status, details_pb2.QuotaFailure)
    retry = detail(status, details_pb2.RetryInfo)
    assert info
    assert bad
    assert quota
    assert retry
    assert (info.reason, info.domain, dict(info.metadata)) == ("WHOLE", "parley", {"expected_offset": "7"})
    assert [(v.field, v.description) for v in bad.field_violations] == [("agent.name", "too short")]
    assert [(v.subject, v.description) for v in quota.violations] == [("user:7", "no more than 3")]
    assert retry.retry_delay.ToTimedelta() == timedelta(milliseconds=1500)


def test_a_status_has_no_detail_that_does_not_apply() -> None:
    status = to_rpc_status(ValidationFailed())
    assert [packed.TypeName() for packed in status.details] == ["google.rpc.ErrorInfo"]


def test_the_status_inside_a_stream_has_the_same_bytes() -> None:
    error = Overloaded(retry_after=timedelta(seconds=1))
    assert status_pb2.Status.FromString(to_stream_status(error).SerializeToString()) == to_rpc_status(error)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (NotFound, grpc.StatusCode.NOT_FOUND),
        (OutOfRange, grpc.StatusCode.OUT_OF_RANGE),
        (DataLoss, grpc.StatusCode.DATA_LOSS),
    ],
)
def test_a_failure_has_the_code_of_its_kind(kind: type[DomainError], code: grpc.StatusCode) -> None:
    assert code_of(type("Some", (kind,), {"reason": "SOME"})()) == code
