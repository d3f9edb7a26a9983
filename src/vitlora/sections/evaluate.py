"""`evaluate`: how the test split is scored."""

from pydantic import Field

from vitlora.params import Params


class Evaluate(Params):
    """Images scored at once (speed only), and the k of top-k accuracy."""

    batch_size: int = Field(ge=1)
    top_k: int = Field(ge=1)


class EvaluateStage(Params):
    """What `evaluate` reads."""

    evaluate: Evaluate
