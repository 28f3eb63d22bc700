"""Every SQL statement of the file service."""
