"""crc32c of runs from the crc32c of each, and the messages of a download that are written by hand."""

import google_crc32c
from hypothesis import given
from hypothesis import strategies as st

from parley.file.v1 import file_service_pb2 as pb2
from services.file.crc32c import combine
from services.file.mapping.downloads import to_chunk
from services.file.models import Piece


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_two_runs_have_the_crc32c_of_all_their_bytes(first: bytes, second: bytes) -> None:
    combined = combine(google_crc32c.value(first), google_crc32c.value(second), len(second))
    assert combined == google_crc32c.value(first + second)


def test_large_runs_do_as_well() -> None:
    first, second = bytes(range(256)) * 4096, b"\xff" * (2**20 + 1)
    combined = combine(google_crc32c.value(first), google_crc32c.value(second), len(second))
    assert combined == google_crc32c.value(first + second)


@given(st.integers(0, 2**63 - 1), st.binary(min_size=1, max_size=300), st.integers(0, 2**32 - 1))
def test_a_chunk_is_what_protobuf_would_write(offset: int, data: bytes, crc32c: int) -> None:
    chunk = pb2.DownloadChunk(offset=offset, data=data, crc32c=crc32c)
    written = to_chunk(Piece(offset, data, crc32c))
    assert written == pb2.DownloadFileResponse(chunk=chunk).SerializeToString(deterministic=True)


def test_a_large_chunk_does_as_well() -> None:
    data = bytes(2**20)
    chunk = pb2.DownloadChunk(offset=2**40, data=data, crc32c=7)
    assert to_chunk(Piece(2**40, data, 7)) == pb2.DownloadFileResponse(chunk=chunk).SerializeToString()
