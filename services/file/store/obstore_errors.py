"""What obstore's errors say, without what must not be said: they hold whole requests and answers."""

import re

MAX_CHARACTERS = 300

_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_BUCKET_GONE = {"NoSuchBucket", "ContainerNotFound"}
_STATUS = re.compile(r"status code: (\d{3})[^:]*")
_CAUSE = re.compile(r'\b(?:message|error): "([^"\\]{1,100})"')
_QUERY = re.compile(r"\?[^\s)]*")
_PASSING = {"408", "429"}
# Where a machine in a cloud asks who it is. Outside of one nobody answers there, or somebody who knows nothing.
_METADATA = re.compile(r"https?://(169\.254\.\d+\.\d+|metadata[\w.]*|\[fd00:ec2::254\])/")


def summary(error: Exception) -> str:
    """What happened, in a short line. URLs come without their query and answers without their body: both hold keys."""
    text = str(error)
    line = _QUERY.sub("", text.split("\n", 1)[0])
    if status := _STATUS.search(line):
        line = line[: status.end()]
    because = _CODE.search(text) or (None if status else _CAUSE.search(text))
    return line[:MAX_CHARACTERS].rstrip() + (f" ({because[1]})" if because else "")


def is_without_bucket(error: Exception) -> bool:
    """Whether it is the bucket that is missing, when something was not found, and not only the object."""
    code = _CODE.search(str(error))
    return code is not None and code[1] in _BUCKET_GONE


def is_refusal(error: Exception) -> bool:
    """Whether the store has answered, and will say the same again: no such bucket, not with these credentials."""
    text = str(error).split("\n", 1)[0]
    if _METADATA.search(text) or "incorrectly configured region" in text:
        return True
    status = _STATUS.search(text)
    return status is not None and status[1].startswith("4") and status[1] not in _PASSING
