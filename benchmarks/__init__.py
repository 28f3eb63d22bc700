"""How fast Parley is, beside peers that do the same work on the same machine at the same time."""
