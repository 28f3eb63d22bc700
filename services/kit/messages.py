"""From bytes to a valid message: decoding, protovalidate's rules, and no NUL in any string."""

from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

import protovalidate
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from services.kit.errors import FieldViolation, RequestMalformed, RequestTooLarge, ValidationFailed

M = TypeVar("M", bound=Message)

# A violation costs 40 µs: a list that is full of them, which a client sends in one message, would hold up everybody.
MAX_LISTED = 100

# A message of many small fields costs 0.6 µs a byte; 512 KiB is more than any that is within its rules has. Bytes are
# cheap: what carries them is as large as gRPC takes.
MAX_REQUEST_BYTES = 512 * 1024

_validator = protovalidate.Validator()


class AnyDecoder(Protocol):
    """Makes messages of bytes: Decoder, or one that a service has for a method with very many bytes."""

    def decode(self, raw: bytes) -> Any:
        """The message, or what stands for it. Raises as Decoder.decode."""


class Decoder(Generic[M]):
    """Decodes and validates messages of one type: of at most MAX_REQUEST_BYTES, unless it has a field for bytes."""

    def __init__(self, kind: type[M], *, carries_bytes: bool | None = None) -> None:
        """`carries_bytes` says otherwise, of a type whose bytes are few."""
        self._kind = kind
        if carries_bytes is None:
            carries_bytes = _carries_bytes(kind.DESCRIPTOR, set())
        self._most = None if carries_bytes else MAX_REQUEST_BYTES

    def decode(self, raw: bytes) -> M:
        """The message. Raises RequestTooLarge, RequestMalformed, or ValidationFailed with the violations."""
        if self._most is not None and len(raw) > self._most:
            raise RequestTooLarge
        try:
            message = self._kind.FromString(raw)
        except DecodeError as error:
            raise RequestMalformed from error
        try:
            check(message, may_hold_nul=b"\0" in raw)
        except ValidationFailed as error:
            error.request = message
            raise
        return message


def _carries_bytes(kind: Any, seen: set[str]) -> bool:
    seen.add(kind.full_name)
    return any(
        field.type == FieldDescriptor.TYPE_BYTES
        or (
            field.message_type is not None
            and field.message_type.full_name not in seen
            and _carries_bytes(field.message_type, seen)
        )
        for field in kind.fields
    )


def check(message: Message, *, may_hold_nul: bool = True) -> None:
    """Raises ValidationFailed if a message breaks the rules in its proto or has NUL in a string."""
    if found := violations(message):
        raise ValidationFailed(fields=found)
    if may_hold_nul and (fields := list(_strings_with_nul(message, ""))):
        raise ValidationFailed(fields=[FieldViolation(f, "must not contain U+0000") for f in fields])


def violations(message: Message) -> list[FieldViolation]:
    """The fields of a message that break the rules in its proto; of one with a list of over MAX_LISTED, the first."""
    found = _validator.collect_violations(message, fail_fast=True)
    if found and not _has_long_list(message):
        found = _validator.collect_violations(message)
    return [FieldViolation(_path(v.proto.field), v.proto.message) for v in found]


def _has_long_list(message: Message) -> bool:
    for field, value in message.ListFields():
        if field.is_repeated and len(value) > MAX_LISTED:
            return True
        if field.type != FieldDescriptor.TYPE_MESSAGE or _is_map(field):
            continue
        if any(_has_long_list(item) for item in (value if field.is_repeated else (value,))):
            return True
    return False


def _strings_with_nul(message: Message, prefix: str) -> Iterator[str]:
    for field, value in message.ListFields():
        path = prefix + field.name
        if field.type == FieldDescriptor.TYPE_STRING:
            values = value if field.is_repeated else (value,)
            if any("\0" in text for text in values):
                yield path
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            if _is_map(field):
                yield from _map_with_nul(value, path)
            else:
                for item in value if field.is_repeated else (value,):
                    yield from _strings_with_nul(item, path + ".")


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _map_with_nul(entries: object, path: str) -> Iterator[str]:
    assert hasattr(entries, "items")
    for key, value in entries.items():
        if (isinstance(key, str) and "\0" in key) or (isinstance(value, str) and "\0" in value):
            yield path
        elif isinstance(value, Message):
            yield from _strings_with_nul(value, f"{path}[{key!r}].")


def _path(path: object) -> str:
    """A violation's path as a caller writes it: `cursors[2].room_id`."""
    parts: list[str] = []
    for element in getattr(path, "elements", ()):
        name = element.field_name
        subscript = element.subscript
        parts.append(f"{name}[{subscript.value}]" if subscript is not None else name)
    return ".".join(parts)
