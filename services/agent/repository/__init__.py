"""Every SQL statement of the agent service."""
