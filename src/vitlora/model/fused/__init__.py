"""The hand-written fast step, behind one door: ``choose``."""
