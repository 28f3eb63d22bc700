"""`parley upload` and `parley download`: files of somebody who has signed in, through whatever breaks on the way."""

from services.cli.files.command import download, upload

__all__ = ["download", "upload"]
