"""The secret of the auth service, as it is kept in a file."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from services.auth.domain.secret import Secret

AT_ONCE = 8


def test_whoever_starts_at_once_with_an_empty_folder_gets_one_secret(tmp_path: Path) -> None:
    for attempt in range(20):
        path, together = tmp_path / str(attempt) / "auth-secret.key", Barrier(AT_ONCE)

        def read(path: Path = path, together: Barrier = together) -> str:
            together.wait(10)
            return Secret.from_file(path).successor("a refresh token")

        with ThreadPoolExecutor(AT_ONCE) as pool:
            derived = {reading.result() for reading in [pool.submit(read) for _ in range(AT_ONCE)]}
        assert len(derived) == 1
        assert list(path.parent.iterdir()) == [path]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
