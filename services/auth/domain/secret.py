"""The secret that only the auth service holds: it encrypts signing keys and derives refresh tokens."""

import base64
import binascii
import hmac
import os
import secrets
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from services.kit import base64url
from services.kit.secret_files import SECRET_BYTES, read_or_make_secret
from services.kit.settings import SettingUnusable

_NONCE_BYTES = 12


class Secret:
    """Two keys derived from the secret (HKDF, RFC 5869): one encrypts at rest, one derives refresh tokens."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise SettingUnusable(f"PARLEY_AUTH_SECRET_KEY must be {SECRET_BYTES} bytes in base64, not {len(secret)}")
        self._box = AESGCM(_derived(secret, b"parley signing keys at rest"))
        self._tokens = _derived(secret, b"parley refresh tokens")

    @classmethod
    def from_base64(cls, text: str) -> "Secret":
        """The secret that a setting gives. Raises SettingUnusable."""
        try:
            return cls(base64.b64decode(text, validate=True))
        except binascii.Error as error:
            raise SettingUnusable("PARLEY_AUTH_SECRET_KEY is not base64") from error

    @classmethod
    def from_file(cls, path: Path) -> "Secret":
        """The secret in a file of mode 600, which is made if it is not there; any number at once make one."""
        return cls(read_or_make_secret(path))

    def encrypt(self, plain: bytes, context: str) -> bytes:
        """AES-256-GCM with a random nonce in front; only opens under the same context."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._box.encrypt(nonce, plain, context.encode())

    def decrypt(self, sealed: bytes, context: str) -> bytes:
        """What was encrypted. Raises SettingUnusable."""
        try:
            return self._box.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context.encode())
        except InvalidTag as error:
            raise SettingUnusable(
                "PARLEY_AUTH_SECRET_KEY is not the one that the signing keys in the database were encrypted with"
            ) from error

    def successor(self, refresh_token: str) -> str:
        """The one refresh token that a token is exchanged for.

        It is derived, not drawn, so that a repeated exchange answers with the same one although only hashes are stored.
        """
        return base64url.encode(hmac.digest(self._tokens, refresh_token.encode(), sha256))


def new_secret() -> str:
    """256 random bits, base64url: a refresh token, or the secret of a service."""
    return base64url.encode(secrets.token_bytes(SECRET_BYTES))


def secret_hash(secret: str) -> bytes:
    """What is stored of such a secret. It has 256 bits of entropy, so that a plain SHA-256 is enough."""
    return sha256(secret.encode()).digest()


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(secret)
