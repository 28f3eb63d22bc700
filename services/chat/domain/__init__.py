"""What can be done with rooms: the rules of chat, without a word of gRPC or SQL."""
