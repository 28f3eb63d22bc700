"""What can be set about files, and what is refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from services.file.settings import FileSettings


def test_files_of_five_tebibytes_can_be_allowed(settings: Any) -> None:
    assert settings(FileSettings, file_max_bytes=5 * 2**40).file_max_bytes == 5 * 2**40


def test_the_store_is_a_folder_of_the_data_by_default(settings: Any) -> None:
    made = settings(FileSettings, file_store_url="")
    assert made.store_url == (made.data_dir / "files").as_uri()
    assert settings(FileSettings, file_store_url="s3://bucket/prefix").store_url == "s3://bucket/prefix"


@pytest.mark.parametrize(
    "wrong",
    [
        {"file_store_url": "ftp://host/folder"},
        {"file_store_url": "just/a/folder"},
        {"file_max_bytes": 0},
        {"file_part_bytes": 1},
        {"file_max_open_uploads": 0},
        {"file_idle_timeout": 60, "file_unfinished_after": 100},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_value_that_cannot_be_is_refused(settings: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        settings(FileSettings, **wrong)
    assert caught.value.error_count() == 1
    assert caught.value.errors()[0]["loc"] == (list(wrong)[-1],)
