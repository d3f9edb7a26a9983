"""The exceptions that are shown to people instead of a traceback."""


class VitloraError(Exception):
    """A mistake in the input, or a fault of the surroundings, that the reader can mend.

    The message says what was got, where, the rule, and what to do. Whoever runs a stage or a verb prints it and exits
    with code 1; every other exception is a bug of ours and keeps its traceback.
    """


class StoppedError(Exception):
    """A signal asked to stop, and the work so far is safe.

    Args:
        number: Of the signal; the exit code is 128 more, as shells have it.
        message: What is kept, and how to go on.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number
