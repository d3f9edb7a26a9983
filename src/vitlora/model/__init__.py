"""A base model with an adapter, and how images pass through it."""
