"""Every SQL statement of auth. Each class works within one transaction, which the domain opens."""
