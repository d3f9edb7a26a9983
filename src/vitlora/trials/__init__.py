"""Runs of the pipeline in clones of their own: what a search (tune) and a sweep (experiments) share."""
