"""What a file looks like, by its first bytes: declared types are words of strangers, and these decide what runs them.

Signatures of binary formats come from `filetype`; it knows no text, so that what a browser would take for a page, and
plain text, are told apart here (https://mimesniff.spec.whatwg.org).
"""

import codecs
import re

import filetype

SNIFFED_BYTES = 4096
"""More than this is not looked at."""

_SPACE = b"\t\n\x0c\r "
_XML = re.compile(rb"<\?xml\b")
_BEFORE_ROOT = re.compile(rb"(?:\s+|<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>\[]*(?:\[.*?\]\s*)?>)*", re.DOTALL | re.IGNORECASE)
_SVG = re.compile(rb"<(?:[\w.-]+:)?svg[\s>/]", re.IGNORECASE)
_HTML = re.compile(
    rb"<!--|<!doctype\s+html\b"
    rb"|<(?:a|b|body|br|div|embed|font|form|frameset|h[1-6]|head|html|iframe|img|input|link|math|meta|object|p|script"
    rb"|style|svg|table|template|textarea|title|video)[\s>/]",
    re.IGNORECASE,
)
# None of these is in a text (section 5 of the standard): TAB, LF, FF, CR and ESC may be.
_NO_TEXT = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_WRITTEN_AS_TEXT = {"application/pdf", "application/rtf", "application/postscript"}
_WIDE_MARKS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def sniff(head: bytes) -> str:
    """The media type that a file's first bytes look like; empty if they tell nothing.

    A page that could run scripts where it is shown is never called anything milder than `text/html`, `image/svg+xml`
    or an XML type, if it begins as one.
    """
    head = head[:SNIFFED_BYTES]
    if not head:
        return ""
    if encoding := _WIDE_MARKS.get(head[:2]):
        text = head[2:].decode(encoding, "ignore").encode()
        return _kind_of_text(text)
    body = head.removeprefix(codecs.BOM_UTF8)
    if body.lstrip(_SPACE).startswith(b"<") and (written := _markup(body)):
        return written
    kind: str = filetype.guess_mime(head) or ""
    if kind in _WRITTEN_AS_TEXT or not _is_utf8(body):
        return kind
    # "BMW" is no bitmap: what signatures of two or three letters say of a text is not believed.
    return _kind_of_text(body) or kind


def _kind_of_text(text: bytes) -> str:
    return _markup(text) or ("" if _NO_TEXT.search(text) else "text/plain")


def _markup(text: bytes) -> str:
    text = text.lstrip(_SPACE)
    behind = _BEFORE_ROOT.match(text)
    root = text[behind.end() :] if behind else text
    if _SVG.match(root):
        return "image/svg+xml"
    if _HTML.match(root):
        return "application/xhtml+xml" if _XML.match(text) else "text/html"
    if _XML.match(text):
        return "text/xml"
    return "text/html" if _HTML.match(text) else ""


def _is_utf8(text: bytes) -> bool:
    try:
        # Not `final`: the head may end within a character.
        codecs.getincrementaldecoder("utf-8")().decode(text)
    except UnicodeDecodeError:
        return False
    return True
