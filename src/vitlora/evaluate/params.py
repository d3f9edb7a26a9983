"""`evaluate`: how the test split is scored."""

from pydantic import Field

from vitlora.core.params import Params
from vitlora.model.params import Precision


class Evaluate(Params):
    """Images scored at once (speed only), the precision on a GPU, and the k of top-k accuracy."""

    precision: Precision
    batch_size: int = Field(ge=1)
    top_k: int = Field(ge=1)


class EvaluateStage(Params):
    """What `evaluate` reads."""

    evaluate: Evaluate
