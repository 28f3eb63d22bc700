"""From rows and values to messages."""
