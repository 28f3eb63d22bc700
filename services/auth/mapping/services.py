"""Service accounts, and what services report."""

from datetime import UTC
from uuid import UUID

from parley.auth.v1 import auth_service_pb2 as auth_pb2
from parley.auth.v1 import user_service_pb2 as pb2
from services.auth.models.services import AccountSecrets
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


def from_refusal(message: auth_pb2.RecordRefusalsRequest.Refusal) -> Refusal:
    """A call that a service has refused, or several."""
    return Refusal(
        id=UUID(message.id),
        create_time=message.create_time.ToDatetime(UTC),
        method=message.method,
        subject_id=UUID(message.subject_id),
        session_id=UUID(message.session_id),
        origin=Origin(message.address, message.user_agent),
        count=message.count or 1,
    )
