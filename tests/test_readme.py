"""The README says what is so."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from services.cli.settings import SuiteSettings

README = Path(__file__).parent.parent / "README.md"


def settings_table() -> str:
    """Every setting, in the order in which the code has them."""
    return "\n".join(["| variable | default | what it is |", "|---|---|---|", *_rows(SuiteSettings.model_fields)])


def _rows(fields: dict[str, FieldInfo]) -> Iterator[str]:
    for name, field in fields.items():
        assert field.description, f"{name} has no description"
        yield f"| `PARLEY_{name.upper()}` | {_shown(field.get_default())} | {field.description} |"


def _shown(default: Any) -> str:
    if default is None or default is PydanticUndefined or str(default) in {"", "**********"}:
        return ""
    return f"`{default}`"


def test_the_readme_lists_every_setting() -> None:
    table = settings_table()
    assert table in README.read_text(), f"the table of settings in README.md should be:\n\n{table}"
