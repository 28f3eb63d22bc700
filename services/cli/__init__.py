"""The `parley` command: each subject in a module of its own, put together in `main`."""
