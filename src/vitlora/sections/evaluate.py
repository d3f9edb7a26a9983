"""`evaluate`: how the test split is scored."""

from typing import Literal

from pydantic import Field

from vitlora.params import Params

Precision = Literal["fp16", "bf16", "fp32"]


class EvaluatePrecision(Params):
    """The part that export reads too: it must know how closely it can repeat evaluate."""

    precision: Precision


class Evaluate(EvaluatePrecision):
    """Images scored at once (speed only), the precision on a GPU, and the k of top-k accuracy."""

    batch_size: int = Field(ge=1)
    top_k: int = Field(ge=1)


class EvaluateStage(Params):
    """What `evaluate` reads."""

    evaluate: Evaluate
