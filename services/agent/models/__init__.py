"""The tables of the agent service, and the values that its use cases answer with."""
