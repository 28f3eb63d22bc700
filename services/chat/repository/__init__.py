"""Every SQL statement of chat."""
