"""Rooms in which people and agents talk."""
