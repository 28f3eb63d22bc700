"""Protobuf in, one call of the domain, protobuf out. What each RPC promises stands in the protos."""
