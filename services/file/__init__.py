"""The file service: bytes in by chunks, checked, kept as immutable parts, and out as they went in."""
