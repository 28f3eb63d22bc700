"""What Parley is measured beside."""
