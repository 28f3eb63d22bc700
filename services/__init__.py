"""Parley's servers, worker and command line."""
