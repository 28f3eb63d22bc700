"""`python -m services.agent`: serve agents until told to stop."""

from services.agent.settings import AgentSettings
from services.agent.wiring import open_agent
from services.kit.process import run_service

if __name__ == "__main__":
    raise SystemExit(run_service("agent", AgentSettings, open_agent))
