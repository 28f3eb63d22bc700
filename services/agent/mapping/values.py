"""Values that agents and executions share: JSON objects and ids."""

from typing import Any
from uuid import UUID

from google.protobuf.struct_pb2 import Struct, Value


def to_uuid(text: str) -> UUID | None:
    """The UUID of an optional field that was validated."""
    return UUID(text) if text else None


def from_struct(struct: Struct) -> dict[str, Any]:
    """The JSON object that a struct is."""
    return {key: _from_value(value) for key, value in struct.fields.items()}


def _from_value(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else number  # so that JSON reads 5, as the caller wrote it
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return from_struct(value.struct_value)
        case "list_value":
            return [_from_value(item) for item in value.list_value.values]
        case _:
            return None
