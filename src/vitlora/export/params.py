"""`export`: what forms the model gets, and how closely they must agree with the trained one."""

from importlib.util import find_spec
from typing import Literal

from pydantic import Field, model_validator

from vitlora.core.params import Params, TogetherError

Format = Literal[
    "transformers", "adapter", "onnx", "onnx-fp16", "onnx-int8", "plain", "plain-fp16", "plain-int8",
    "openvino", "executorch",
]  # fmt: skip

# Those that take pixel values lie where transformers.js looks for them.
FILES: dict[Format, tuple[str, ...]] = {
    "transformers": ("model.safetensors", "config.json", "preprocessor_config.json"),
    "adapter": ("adapter",),
    "onnx": ("model.onnx",),
    "onnx-fp16": ("model_fp16.onnx",),
    "onnx-int8": ("model_int8.onnx",),
    "plain": ("onnx/model.onnx",),
    "plain-fp16": ("onnx/model_fp16.onnx",),
    "plain-int8": ("onnx/model_quantized.onnx",),
    "openvino": ("openvino/model.xml", "openvino/model.bin"),
    "executorch": ("model.pte",),
}

PACKAGES: dict[Format, str] = {"openvino": "openvino==2026.4.1", "executorch": "executorch==1.5.1"}
"""What make setup does not install."""


class Export(Params):
    """Formats, and the proof that each of them is still the trained model."""

    formats: list[Format] = Field(min_length=1)
    """What is written; onnx must be there. Each is in docs/export.md."""
    batch_size: int = Field(ge=1, le=1_000_000)
    """Images at once; speed only."""
    onnx_opset: int = Field(ge=18, le=23)
    """ONNX operator set."""
    max_logit_diff: float = Field(gt=0)
    """A larger difference between PyTorch and a format of full precision fails the stage."""
    max_accuracy_drop: float = Field(ge=0, le=1)
    """A format whose accuracy on the checked images fell by more, and by more than chance explains, fails the stage."""
    max_check_images: int | None = Field(ge=1)
    """Test images scored again with each format; null is all."""

    @model_validator(mode="after")
    def _formats_are_a_set_with_onnx(self) -> "Export":
        if "onnx" not in self.formats:
            raise TogetherError("onnx is among them: predict, serve and evaluate FOLDER read it", "formats")
        if len(set(self.formats)) < len(self.formats):
            raise TogetherError("each once", "formats")
        return self

    @model_validator(mode="after")
    def _packages_are_there(self) -> "Export":
        missing = [form for form in self.formats if form in PACKAGES and not installed(form)]
        if missing:
            packages = " ".join(PACKAGES[form] for form in missing)
            raise TogetherError(
                f"the package of a format is installed: `.venv/bin/uv pip install --python .venv {packages}`, or leave "
                f"{' and '.join(missing)} out",
                "formats",
            )
        return self


def installed(form: Format) -> bool:
    """Say whether a format's package is there."""
    return form not in PACKAGES or find_spec(PACKAGES[form].partition("==")[0]) is not None


class ExportStage(Params):
    """What `export` reads."""

    export: Export
