"""What is kept between two runs of a command about a transfer that was not finished: a small file for each."""

import json
import os
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from services.cli.client.ending import Failed

OLDEST_SECONDS = 30 * 86_400.0


class Kept:
    """What is known of one transfer, in a file that only its owner can read, in a folder of mode 700.

    What tells one transfer from another is in the name, hashed.
    """

    def __init__(self, folder: Path, *key: object) -> None:
        self._path = folder / f"{sha256(json.dumps(key).encode()).hexdigest()[:40]}.json"

    def read(self) -> dict[str, Any]:
        """What is known; empty if nothing is, or it cannot be read: then the transfer begins anew."""
        try:
            known = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def write(self, known: dict[str, Any]) -> None:
        """Keep this. A crash leaves what was there before, or this. Raises Failed."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=f"{self._path.name}.", dir=self._path.parent)  # of mode 600
            try:
                with os.fdopen(descriptor, "w") as file:
                    json.dump(known, file)
                Path(name).replace(self._path)
            except BaseException:
                Path(name).unlink()
                raise
        except OSError as error:
            raise Failed(f"{self._path} cannot be written: {error.strerror}") from error

    def drop(self) -> None:
        """Keep nothing of it any more."""
        self._path.unlink(missing_ok=True)


def remove_old(folder: Path) -> None:
    """Remove what was kept so long ago that no server knows of it any more."""
    oldest = time.time() - OLDEST_SECONDS
    try:
        for path in folder.iterdir():
            if path.stat().st_mtime < oldest:
                path.unlink()
    except OSError:
        pass  # Another command does the same, or there is no such folder.
