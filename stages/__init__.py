"""Entry points of the five stages; the logic is in ``vitlora``."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # `run` brings it back
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while a stage imports ends it without a traceback
