"""The use cases and rules of files."""
