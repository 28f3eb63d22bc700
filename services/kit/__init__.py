"""What all services share. Imports no service."""
