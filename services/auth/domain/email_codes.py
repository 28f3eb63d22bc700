"""Codes that are mailed, and show that whoever presents one reads the mail of an address.

A code has 80 random bits, written in Crockford's base32 (https://www.crockford.com/base32.html), which has no letters
that are taken for digits. Only its SHA-256 is stored: with as many bits, a slow hash would add nothing.
"""

import hmac
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.models.users import CodePurpose
from services.auth.repository.email_codes import EmailCodeRows

CODE_LIFE = timedelta(minutes=15)
MOST_TRIES = 100
"""80 bits are not guessed. With few tries a stranger, who can present codes as well, made the mailed one worthless."""

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LENGTH = 16
_GROUP = 4
_READ_AS = str.maketrans("OIL", "011", "- \t\r\n")
_NOBODY = UUID(int=0)


class EmailCodes:
    """Makes and checks codes, in the transactions of the use cases. A user has one for each purpose: the newest."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock

    async def make(self, tx: AsyncConnection, user_id: UUID, purpose: CodePurpose) -> str:
        """A new code; the one before is worth nothing from now on."""
        code, now = new_code(), self._clock()
        await EmailCodeRows(tx).put(user_id, purpose, code_hash(code), now, now + CODE_LIFE)
        return code

    async def present(self, tx: AsyncConnection, user_id: UUID | None, purpose: CodePurpose, code: str) -> bool:
        """Whether it is the user's code. It counts as a try, right or wrong, once the transaction is committed.

        Without a user the same is done in vain.
        """
        stored = await EmailCodeRows(tx).count_try(user_id or _NOBODY, purpose, self._clock(), MOST_TRIES)
        return hmac.compare_digest(code_hash(code), stored or b"")

    async def take_back(self, tx: AsyncConnection, user_id: UUID, purpose: CodePurpose, code: str) -> None:
        """The right code was presented for something that was then refused: that was no try."""
        await EmailCodeRows(tx).take_back_try(user_id, purpose, code_hash(code))

    async def use_up(self, tx: AsyncConnection, user_id: UUID, purpose: CodePurpose, code: str) -> bool:
        """Make a code that was right worth nothing; False when somebody else has used it up, or it was replaced."""
        return await EmailCodeRows(tx).delete(user_id, purpose, code_hash(code))

    async def void(self, tx: AsyncConnection, user_id: UUID, purpose: CodePurpose) -> None:
        """Make the user's code for a purpose worth nothing, if there is one."""
        await EmailCodeRows(tx).delete_any(user_id, purpose)


def new_code() -> str:
    """80 random bits in groups of four characters, such as `7Q2M-0XKD-WT9A-5HZC`."""
    letters = [secrets.choice(_ALPHABET) for _ in range(_LENGTH)]
    return "-".join("".join(letters[start : start + _GROUP]) for start in range(0, _LENGTH, _GROUP))


def code_hash(code: str) -> bytes:
    """What is stored of a code: the same however it is typed, with small letters, spaces, O for 0, or I and L for 1."""
    return sha256(code.upper().translate(_READ_AS).encode()).digest()
