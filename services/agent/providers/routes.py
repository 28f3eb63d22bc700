"""Which provider runs which model, as a setting says it."""

from dataclasses import dataclass

PROVIDER_NAMES = ("echo", "anthropic", "openai")


@dataclass(frozen=True, slots=True)
class Route:
    """Models whose name matches a pattern of shells (`*`, `?`, `[…]`) are run by this provider."""

    pattern: str
    provider: str


def parse_routes(text: str) -> tuple[Route, ...]:
    """The routes in a text like `claude-*=anthropic,*=openai`, in their order. Raises ValueError."""
    return tuple(_parse(entry.strip()) for entry in text.split(","))


def _parse(entry: str) -> Route:
    pattern, equals, provider = (part.strip() for part in entry.rpartition("="))
    if not equals or not pattern:
        raise ValueError(f"must be like `claude-*=anthropic,*=openai`, and {entry!r} is not `pattern=provider`")
    if provider not in PROVIDER_NAMES:
        raise ValueError(f"has {provider!r} in {entry!r}, and the providers are {', '.join(PROVIDER_NAMES)}")
    return Route(pattern, provider)
