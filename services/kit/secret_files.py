"""Secrets kept in files of the data folder, for whoever sets none."""

import base64
import binascii
import os
import secrets
import tempfile
from pathlib import Path

from services.kit.settings import SettingUnusable

SECRET_BYTES = 32


def read_or_make_secret(path: Path) -> bytes:
    """The 32 bytes in a file of mode 600, which is made if it is not there; any number at once make one.

    Raises SettingUnusable when the file does not hold 32 bytes in base64.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not named by the process's number: in containers that share the folder everybody is number 1.
        descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)  # of mode 600
        partial = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(secrets.token_bytes(SECRET_BYTES)))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial, path)
        except FileExistsError:
            pass
        finally:
            partial.unlink()
    try:
        secret = base64.b64decode(path.read_text().strip(), validate=True)
    except binascii.Error:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise SettingUnusable(f"{path} does not hold {SECRET_BYTES} bytes in base64")
    return secret
