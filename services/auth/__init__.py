"""Identity: users, sessions and the tokens that every other service accepts."""
