"""`python -m services.file`: one process of the file service."""

from services.file.settings import FileSettings
from services.file.wiring import open_file
from services.kit.allocator import keep_freed_memory
from services.kit.process import run_service

if __name__ == "__main__":
    keep_freed_memory()
    raise SystemExit(run_service("file", FileSettings, open_file))
