"""The only code that opens a connection."""
