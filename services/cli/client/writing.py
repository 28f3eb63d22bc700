"""What is written to a terminal or a pipe, where others have made it: models, tools, users, names of files."""

import json
import re
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

# They move the cursor, change colours and titles, answer in the user's name.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Text without the characters that a terminal obeys; lines and tabs stay."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def one_line(text: str, limit: int) -> str:
    """The beginning of a text, on one line."""
    flat = " ".join(printable(text).split())
    return flat if len(flat) <= limit else f"{flat[: limit - 1]}…"


def as_json(message: Message) -> Any:
    """A message in the JSON mapping of proto3, in which 64-bit integers are strings; with the proto's field names."""
    return _whole(MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))


def print_json(value: Any) -> None:
    """A value as one line of JSON, at once."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def _whole(value: Any) -> Any:
    """A value whose whole numbers are written as such: those of a Struct are doubles."""
    match value:
        case dict():
            return {key: _whole(item) for key, item in value.items()}
        case list():
            return [_whole(item) for item in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value
