"""`train.num_processes`, which two stages read."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from vitlora.core.params import Params

MOST = 64


def _a_number_or_auto(value: object) -> object:
    """Word the rule as a whole: of a union, each kind would have its own say."""
    if value != "auto" and not (type(value) is int and 1 <= value <= MOST):
        raise ValueError(f"a whole number, without quotes or decimal point, of 1 to {MOST}, or auto")
    return value


NumProcesses = Annotated[Annotated[int, Field(ge=1, le=MOST)] | Literal["auto"], BeforeValidator(_a_number_or_auto)]


class Processes(Params):
    """What evaluate reads of the section `train`."""

    num_processes: NumProcesses
    """As in the section `train`."""
