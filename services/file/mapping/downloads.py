"""The messages of a download after its first."""

from parley.file.v1 import file_service_pb2 as pb2
from services.file.models import Piece

# Tags of the fields in the wire format: number << 3 | type.
_CHUNK = b"\x12"
_OFFSET = b"\x08"
_DATA = b"\x12"
_CRC32C = b"\x1d"


def to_chunk(piece: Piece) -> bytes:
    """A DownloadFileResponse of bytes, serialised.

    By hand, with a single copy of the bytes: protobuf makes three, which cost as much as to read and to verify them.
    """
    before = (_OFFSET + _varint(piece.offset) if piece.offset else b"") + _DATA + _varint(len(piece.data))
    behind = _CRC32C + piece.crc32c.to_bytes(4, "little") if piece.crc32c else b""
    size = len(before) + len(piece.data) + len(behind)
    return b"".join((_CHUNK, _varint(size), before, piece.data, behind))


def to_trailer(size_bytes: int, crc32c: int) -> pb2.DownloadFileResponse:
    """The last message: how many bytes were sent, and their crc32c."""
    return pb2.DownloadFileResponse(trailer=pb2.DownloadTrailer(size_bytes=size_bytes, crc32c=crc32c))


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
