"""The sections of params.yaml, one light module each: what a key may be, and what it does."""
