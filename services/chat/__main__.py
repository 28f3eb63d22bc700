"""`python -m services.chat`: serve rooms until told to stop."""

from services.chat.settings import ChatSettings
from services.chat.wiring import open_chat
from services.kit.process import run_service

if __name__ == "__main__":
    raise SystemExit(run_service("chat", ChatSettings, open_chat))
