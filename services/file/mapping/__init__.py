"""Between messages and what the domain works with."""
