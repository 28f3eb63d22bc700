"""What `make` runs: the environment, the generated code, the checks."""
