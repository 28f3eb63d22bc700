"""Which fields an update changes (AIP-134)."""

from collections.abc import Sequence

from services.kit.errors import FieldViolation, UpdateMaskInvalid

_SHOWN_OF_A_PATH = 64
_SHOWN_PATHS = 20


def masked_fields(paths: Sequence[str], changeable: Sequence[str]) -> Sequence[str]:
    """The fields that a mask's paths name; `*` alone names all. Raises UpdateMaskInvalid, for an empty mask as well."""
    if not paths:
        raise UpdateMaskInvalid(fields=[FieldViolation("update_mask", "must name at least one field")])
    if list(paths) == ["*"]:
        return changeable
    unknown = dict.fromkeys(path[:_SHOWN_OF_A_PATH] for path in paths if path not in changeable)
    if unknown:
        known = ", ".join(changeable)
        raise UpdateMaskInvalid(
            fields=[
                FieldViolation("update_mask", f"{path!r} is none of {known}") for path in list(unknown)[:_SHOWN_PATHS]
            ]
        )
    return paths
