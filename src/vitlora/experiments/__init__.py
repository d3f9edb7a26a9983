"""A sweep: every combination of some values, each a DVC experiment of the whole pipeline."""
