"""AI agents: created, listed and changed by the user whose they are."""
