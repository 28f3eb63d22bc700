"""`parley agent`: agents and their runs, for somebody who has signed in."""

from services.cli.agent.command import agent

__all__ = ["agent"]
