"""The tables of auth, and the values that its use cases answer with."""
