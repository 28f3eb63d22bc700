"""`parley demo`: a journey through a running suite, over the network, with the generated stubs only."""

from services.cli.demo.command import demo

__all__ = ["demo"]
