"""Around the stages, in no cache key: it can refuse a run, never change an output."""
