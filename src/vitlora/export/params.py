"""`export`: how closely the exported models must agree with the trained one."""

from pydantic import Field

from vitlora.core.params import Params


class Export(Params):
    """Images scored at once (speed only), ONNX operator set, largest logit difference that passes, images to check."""

    batch_size: int = Field(ge=1)
    """Images at once; speed only."""
    onnx_opset: int = Field(ge=18, le=23)
    """ONNX operator set."""
    max_logit_diff: float = Field(gt=0)
    """A larger difference between PyTorch and ONNX fails the stage."""
    max_check_images: int | None = Field(ge=1)
    """Test images scored again with each exported form; null is all."""


class ExportStage(Params):
    """What `export` reads."""

    export: Export
