"""From a file's bytes to pixels; imports nothing of the rest."""
