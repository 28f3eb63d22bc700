"""Which passwords are taken (NIST SP 800-63B-4 §3.1.1.2): long ones that are not guessed first. Nothing else is asked.

How many guesses a password stands is estimated as zxcvbn does (Wheeler, USENIX Security 2016): from common passwords,
words and names, dates, rows of keys, repetitions and sequences, also when letters are replaced by figures like them.
"""

import re
from math import prod

from zxcvbn import matching, scoring

from services.auth.domain.passwords import Passwords, normalised
from services.auth.errors import PasswordWeak
from services.kit.errors import FieldViolation

MAX_LENGTH = 128
FEWEST_GUESSES = 10**8
"""What zxcvbn calls safely unguessable. Online nobody gets more than a hundred guesses; whoever has copied the database
and tries ten thousand a second, which takes a dozen graphics cards, needs hours for each such password."""

# A shorter name or local part is in too many words.
_SHORTEST_PART = 4
# What is estimated takes time that grows with the square of the length, and holds up all threads of the process.
_MOST_ESTIMATED = 48
# What is repeated is estimated again for each piece of it, which takes the longest of all: "iii…" a tenth of a second.
# It adds next to nothing to the guesses, so that it is left out beforehand.
_REPEATED = re.compile(r"(.+?)\1{2,}", re.DOTALL)
# Letters that a character can stand for are tried in every combination. There can be hundreds, which takes seconds: a
# password with more than a few gets one character for each letter first.
_MOST_COMBINATIONS = 8
_ONE_FOR_EACH = str.maketrans("@[{<!|$+", "4(((1157")


class PasswordRules:
    """Checks new passwords. It takes up to a fortieth of a second, so it is done where passwords are hashed."""

    def __init__(self, passwords: Passwords, *, min_length: int) -> None:
        self._passwords = passwords
        self._min_length = min_length

    async def check(self, password: str, *, email: str, full_name: str, field: str = "new_password") -> None:
        """Raises PasswordWeak with what is wrong with the request's `field`, Overloaded when too many wait."""
        fault = _fault_of_form(password, self._min_length) or _fault_of_holding(password, email, full_name)
        if fault is None:
            guesses = await self._passwords.run(lambda: guesses_for(password, email, full_name))
            if guesses >= FEWEST_GUESSES:
                return
            fault = "is easily guessed: use other words, or more of them"
        raise PasswordWeak(fields=[FieldViolation(field, fault)])


def guesses_for(password: str, email: str, full_name: str) -> float:
    """How many guesses somebody needs who knows the user and what people choose.

    What is repeated counts twice, however often it is; of what is left the first 48 characters count.
    """
    estimated = _REPEATED.sub(r"\1\1", normalised(password))[:_MOST_ESTIMATED]
    stands_for = matching.relevant_l33t_subtable(estimated, matching.L33T_TABLE)
    if prod(len(characters) for characters in stands_for.values()) > _MOST_COMBINATIONS:
        estimated = estimated.translate(_ONE_FOR_EACH)
    known = [email, *email.replace("@", ".").split("."), full_name, *full_name.split(), "parley"]
    # Not by the library's own `zxcvbn()`: that keeps what it is told of the user in a variable of its module, which
    # the password checked in the next thread would meet.
    words = matching.build_ranked_dict([word.lower() for word in known])
    matches = matching.omnimatch(estimated, {**matching.RANKED_DICTIONARIES, "user_inputs": words})
    return float(scoring.most_guessable_match_sequence(estimated, matches)["guesses"])


def _fault_of_form(password: str, min_length: int) -> str | None:
    length = len(normalised(password))
    if length < min_length:
        return f"must have at least {min_length} characters"
    return f"must have at most {MAX_LENGTH} characters" if length > MAX_LENGTH else None


def _fault_of_holding(password: str, email: str, full_name: str) -> str | None:
    squeezed = _squeezed(password)
    for held, what in ((email, "the address"), (email.rpartition("@")[0], "the address"), (full_name, "the name")):
        part = _squeezed(held)
        if len(part) >= _SHORTEST_PART and part in squeezed:
            return f"must not hold {what}"
    return None


def _squeezed(text: str) -> str:
    return "".join(normalised(text).casefold().split())
