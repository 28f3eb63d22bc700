"""What all tables of the agent service share."""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import TIMESTAMP, Uuid
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase

from services.kit.database import schema_metadata

# A JSON object, as `json.loads` makes it.
Config = dict[str, Any]


class Base(DeclarativeBase):
    """The tables of the schema `agent`."""

    metadata = schema_metadata("agent")
    type_annotation_map: ClassVar = {datetime: TIMESTAMP(timezone=True), Config: JSONB, list[UUID]: ARRAY(Uuid)}
