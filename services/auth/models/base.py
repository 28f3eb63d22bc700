"""What all tables of auth share."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.orm import DeclarativeBase

from services.kit.database import schema_metadata


class Base(DeclarativeBase):
    """Everything in the schema `auth`."""

    metadata = schema_metadata("auth")
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy reads it as it stands
        datetime: TIMESTAMP(timezone=True),
        list[UUID]: ARRAY(PG_UUID(as_uuid=True)),
        list[str]: ARRAY(Text),
        dict[str, Any]: JSONB,
    }
