"""What files look like by their first bytes, above all those that a browser would run."""

import io
import time
import wave
import zipfile

import pytest

from services.file.content_types import SNIFFED_BYTES, sniff

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00"
HTML, SVG, XML, TEXT = "text/html", "image/svg+xml", "text/xml", "text/plain"


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "hello")
    return buffer.getvalue()


def sound() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(100))
    return buffer.getvalue()


KINDS = [
    (b"", ""),
    (PNG, "image/png"),
    (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "image/jpeg"),
    (b"GIF89a\x01\x00\x01\x00\x80", "image/gif"),
    (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "application/pdf"),
    (b"%PDF-1.4\nall of it is text\n", "application/pdf"),
    (zipped(), "application/zip"),
    (sound(), "audio/x-wav"),
    (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "application/gzip"),
    (bytes(range(256)), ""),
    # Text
    (b"hello", TEXT),
    ("Grüße, 你好\n".encode(), TEXT),
    (b"\xef\xbb\xbfwith a mark", TEXT),
    ("with a mark".encode("utf-16"), TEXT),
    (b"BMW is no bitmap, and\nMZ no program", TEXT),
    (b"MZ is no program", TEXT),
    ("€".encode() * 2000, TEXT),
    (b"caf\xe9 in Latin-1", ""),
    (b"a\x00b", ""),
    (b'{"a": "<script>"}', TEXT),
    (b"1 < 2", TEXT),
    (b"<- an arrow", TEXT),
    # What a browser runs
    (b"<!DOCTYPE html><html></html>", HTML),
    (b"  \n\t<!doctype HTML>", HTML),
    (b"<html>", HTML),
    (b"<SCRIPT>alert(1)</SCRIPT>", HTML),
    (b"<script\tsrc=x>", HTML),
    (b"<!-- a word --><img src=x onerror=alert(1)>", HTML),
    (b"\xef\xbb\xbf<html>", HTML),
    ("<script>alert(1)</script>".encode("utf-16"), HTML),
    (b"<html>\x00\x01\x02", HTML),
    (b"<iframe src=x>", HTML),
    (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", SVG),
    (b"<svg>", SVG),
    (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg>", SVG),
    (b"<?xml version='1.0'?><!DOCTYPE svg PUBLIC 'a' 'b' [ <!ENTITY x 'y'> ]><svg xmlns='s'>", SVG),
    (b"<?xml version='1.0'?><s:svg xmlns:s='http://www.w3.org/2000/svg'>", SVG),
    (b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'>", "application/xhtml+xml"),
    (b"<?xml version='1.0'?><feed>", XML),
]


@pytest.mark.parametrize(("head", "kind"), KINDS)
def test_files_look_like_what_they_are(head: bytes, kind: str) -> None:
    assert sniff(head) == kind


def test_no_head_keeps_the_server_busy() -> None:
    heads = [b"<!--" * 1024, b"<?" * 2048, b"<!DOCTYPE [" + b"] " * 2048, b"<" * 4096, b" " * 4096, b"<!DOCTYPE" * 500]
    begun = time.process_time()
    for head in heads:
        sniff(head[:SNIFFED_BYTES])
    assert time.process_time() - begun < 0.05 * len(heads)
