"""A search over parameters: each trial a DVC experiment in a clone of its own, judged on val, never on test."""
