"""What an agent's config may say to a provider: read with its type, or refused."""

import math
from collections.abc import Mapping
from typing import Any

from services.agent.providers import Fault, ProviderFailure

Options = Mapping[str, Any]


def number(options: Options, name: str) -> float | None:
    """A number; None where it is absent or null. Raises ProviderFailure."""
    value = options.get(name)
    if value is None:
        return None
    # A bool is an int to Python, and not to whoever wrote the config.
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _refused(name, "must be a number")
    return value


def whole_number(options: Options, name: str, least: int, most: int) -> int | None:
    """A whole number within limits; None where it is absent or null. Raises ProviderFailure."""
    value = options.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _refused(name, f"must be a whole number from {least} to {most}")
    return value


def strings(options: Options, name: str) -> list[str] | None:
    """A list of strings that are not empty; None where it is absent, null or empty. Raises ProviderFailure."""
    value = options.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise _refused(name, "must be a list of strings")
    return value or None


def section(options: Options, name: str) -> Options:
    """Options within options; none where they are absent or null. Raises ProviderFailure."""
    value = options.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _refused(name, "must be an object")
    return value


def _refused(name: str, rule: str) -> ProviderFailure:
    return ProviderFailure(Fault.REFUSED, f"config: {name} {rule}")
