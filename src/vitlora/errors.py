"""The one exception that is shown to people instead of a traceback."""


class VitloraError(Exception):
    """A mistake in the input, or a fault of the surroundings, that the reader can mend.

    The message says what was got, where, the rule, and what to do. Whoever runs a stage or a verb prints it and exits
    with code 1; every other exception is a bug of ours and keeps its traceback.
    """
