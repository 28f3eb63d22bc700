"""base64url without padding (RFC 4648 §5), as tokens and JSON Web Keys use it."""

import base64
import binascii


def encode(raw: bytes) -> str:
    """The text of some bytes."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """The bytes of a text. Raises ValueError for what `encode` does not make: the same bytes have one text."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    if encode(raw) != text:
        raise ValueError("not as it would be encoded")
    return raw
