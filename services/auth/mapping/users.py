"""Users."""

from parley.auth.v1 import auth_service_pb2 as pb2
from services.auth.models.users import User
from services.kit.errors import FieldViolation, ValidationFailed
from services.kit.masks import masked_fields
from services.kit.messages import violations
from services.kit.timestamps import to_optional_timestamp, to_timestamp


def to_user(row: User) -> pb2.User:
    """A user, without anything secret."""
    return pb2.User(
        id=str(row.id),
        email=row.email,
        full_name=row.full_name,
        create_time=to_timestamp(row.create_time),
        update_time=to_timestamp(row.update_time),
        email_verified=row.email_verify_time is not None,
        is_admin=row.is_admin,
        state=pb2.User.State.Value(f"STATE_{row.state}"),
        etag=row.etag,
        disable_time=to_optional_timestamp(row.disable_time),
        delete_time=to_optional_timestamp(row.delete_time),
        purge_time=to_optional_timestamp(row.purge_time),
    )


def to_changes(request: pb2.UpdateCurrentUserRequest) -> dict[str, str]:
    """What the request wants to change. Raises UpdateMaskInvalid, and ValidationFailed as Register would."""
    fields = masked_fields(request.update_mask.paths, ["full_name"])
    values = {field: getattr(request.user, field) for field in fields}
    broken = [v for v in violations(pb2.RegisterRequest(**values)) if v.field in values]
    if broken:
        raise ValidationFailed(fields=[FieldViolation(f"user.{v.field}", v.description) for v in broken])
    return values
