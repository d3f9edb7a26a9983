"""Several processes that do one stage's work: how they start, are watched and end, and talk."""
