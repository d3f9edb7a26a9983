"""``python -m vitlora``: the command line."""

from vitlora.cli import script

script()
