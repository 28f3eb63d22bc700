"""Service accounts, and what services report."""

from collections.abc import Iterable
from datetime import UTC
from uuid import UUID

from parley.auth.v1 import auth_service_pb2 as auth_pb2
from parley.auth.v1 import user_service_pb2 as pb2
from services.auth.models.services import AccountSecrets
from services.kit.errors import FieldViolation, ValidationFailed
from services.kit.identity import Refusal
from services.kit.origin import Origin
from services.kit.timestamps import to_optional_timestamp, to_timestamp


def to_service_account(row: AccountSecrets) -> pb2.ServiceAccount:
    """An account, without anything secret."""
    return pb2.ServiceAccount(
        id=str(row.account.id),
        name=row.account.name,
        methods=row.account.methods,
        create_time=to_timestamp(row.account.create_time),
        secrets=[
            pb2.ServiceAccount.Secret(
                create_time=to_timestamp(secret.create_time), expire_time=to_optional_timestamp(secret.expire_time)
            )
            for secret in row.secrets
        ],
    )


def from_refusals(messages: Iterable[auth_pb2.RecordRefusalsRequest.Refusal]) -> list[Refusal]:
    """Calls that a service has refused. Raises ValidationFailed for a time that is none."""
    refusals = []
    for index, message in enumerate(messages):
        try:
            refusals.append(_from_refusal(message))
        except ValueError as error:
            # The rules in the proto look at the seconds: `nanos` that are none come as far as here.
            field = FieldViolation(f"refusals[{index}].create_time", "must be a valid time")
            raise ValidationFailed(fields=[field]) from error
    return refusals


def _from_refusal(message: auth_pb2.RecordRefusalsRequest.Refusal) -> Refusal:
    create_time = message.create_time.ToDatetime(UTC)
    return Refusal(
        id=UUID(message.id),
        create_time=create_time,
        method=message.method,
        subject_id=UUID(message.subject_id),
        session_id=UUID(message.session_id),
        origin=Origin(message.address, message.user_agent),
        count=message.count or 1,
    )
