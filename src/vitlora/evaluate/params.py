"""`evaluate`: how the test split is scored."""

from typing import Literal

from pydantic import Field

from vitlora.core.params import Params
from vitlora.model.params import Precision
from vitlora.processes.params import Processes

Views = Literal["none", "flip", "crops"]


class Evaluate(Params):
    """Images scored at once (speed only), the precision on a GPU, the k of top-k, the coverage of prediction sets."""

    precision: Precision
    """On a GPU; elsewhere fp32 is used, said and recorded."""
    batch_size: int = Field(ge=1, le=1_000_000)
    """Images at once; speed only."""
    top_k: int = Field(ge=1)
    """Also count an image as right if its class is among so many."""
    coverage: float = Field(ge=0.5, lt=1)
    """Share of images whose prediction set is to hold the true class; the sets are found on val."""
    tta: Views
    """Also the scores of several looks at an image together: flip, with its mirror image; crops, with its four corners
    and all mirrored, at ten times the time. What is exported takes one look.
    """


class EvaluateStage(Params):
    """What `evaluate` reads."""

    evaluate: Evaluate
    train: Processes
