"""RPCs that are being built."""

from typing import Any

from services.kit.errors import MethodUnknown


class Pending:
    """Stands in for what is not there yet."""

    def __getattr__(self, name: str) -> Any:
        """A method that answers as if there were none."""

        async def refuse(_request: object, _call: object) -> None:
            raise MethodUnknown

        return refuse
