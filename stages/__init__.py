"""Entry points of the five stages; the logic is in ``vitlora``."""
