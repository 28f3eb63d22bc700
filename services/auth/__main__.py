"""`python -m services.auth`: run the auth service."""

from services.auth.settings import AuthSettings
from services.auth.wiring import open_auth
from services.kit.process import run_service

if __name__ == "__main__":
    raise SystemExit(run_service("auth", AuthSettings, open_auth))
