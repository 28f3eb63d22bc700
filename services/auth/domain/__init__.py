"""The use cases and rules of auth."""
