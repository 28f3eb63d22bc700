"""Chunks of uploads, read by hand: of nearly all bytes that come in, one copy is made in place of two."""

from typing import Generic, NamedTuple, TypeVar

from google.protobuf.message import Message

from parley.file.v1 import file_service_pb2 as pb2
from services.file.models import Chunk
from services.kit.errors import RequestTooLarge
from services.kit.messages import MAX_REQUEST_BYTES, Decoder

M = TypeVar("M", bound=Message)

MAX_CHUNK_BYTES = 2 * 1024 * 1024
"""As the rule of UploadChunk.data says."""
SMALLEST = 4 * 1024
"""Below this the library is as quick."""
_VARINT, _BYTES, _FIXED32 = 0, 2, 5
_MAX_INT64 = 2**63
_KEY = pb2.UploadFilesRequest.DESCRIPTOR.fields_by_name["key"].number


class KeyedChunk(NamedTuple):
    """A chunk of one of several files."""

    key: str
    chunk: Chunk


class ChunkDecoder(Generic[M]):
    """Decodes the messages of an upload stream: a chunk comes out as `Chunk` or `KeyedChunk`, anything else as itself.

    By hand it takes only what encoders write for a valid chunk: each field once, in the order of their numbers. All
    else is left to the library and the rules in the proto, so that there is one opinion about what is not valid.
    """

    def __init__(self, kind: type[M]) -> None:
        self._decoder = Decoder(kind)
        self._step = kind.DESCRIPTOR.fields_by_name["chunk"].number
        self._is_keyed = kind is pb2.UploadFilesRequest

    def decode(self, raw: bytes) -> M | Chunk | KeyedChunk:
        """The message. Raises as `services.kit.messages.Decoder`."""
        if len(raw) >= SMALLEST:
            try:
                if (chunk := self._chunk(raw)) is not None:
                    return chunk
            except (IndexError, UnicodeDecodeError):  # It ends within a field: the library says so.
                pass
        # What is no chunk has only small fields, which cost the library a multiple of their bytes.
        if len(raw) > MAX_REQUEST_BYTES and not self._is_nearly_all_chunk(raw):
            raise RequestTooLarge
        return self._decoder.decode(raw)

    def _is_nearly_all_chunk(self, raw: bytes) -> bool:
        try:
            at = 0
            if self._is_keyed and raw[0] == _tag(_KEY, _BYTES):
                size, at = _varint(raw, 1)
                at += size
            return raw[at] == _tag(self._step, _BYTES) and _varint(raw, at + 1)[0] > len(raw) - SMALLEST
        except IndexError:
            return False

    def _chunk(self, raw: bytes) -> Chunk | KeyedChunk | None:
        key, at = "", 0
        if self._is_keyed:
            if raw[0] != _tag(_KEY, _BYTES):
                return None
            size, at = _varint(raw, 1)
            key = raw[at : at + size].decode()
            at += size
            if not 1 <= len(key) <= 64 or "\0" in key:
                return None
        if raw[at] != _tag(self._step, _BYTES):
            return None
        size, at = _varint(raw, at + 1)
        chunk = _fields(raw, at) if at + size == len(raw) else None
        return KeyedChunk(key, chunk) if self._is_keyed and chunk is not None else chunk


def _fields(raw: bytes, at: int) -> Chunk | None:
    """The fields of UploadChunk, which reach to the end."""
    offset = 0
    if raw[at] == _tag(1, _VARINT):
        offset, at = _varint(raw, at + 1)
    if raw[at] != _tag(2, _BYTES):
        return None
    size, at = _varint(raw, at + 1)
    end = at + size
    if not 1 <= size <= MAX_CHUNK_BYTES or offset >= _MAX_INT64:
        return None
    if end == len(raw):
        return Chunk(offset, raw[at:end], None)
    if end + 5 != len(raw) or raw[end] != _tag(3, _FIXED32):
        return None
    return Chunk(offset, raw[at:end], int.from_bytes(raw[end + 1 :], "little"))


def _tag(number: int, wire_type: int) -> int:
    return number << 3 | wire_type


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """The number that begins there, and where it ends. Raises IndexError if it does not end, or is too long."""
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError
