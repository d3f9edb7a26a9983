"""`augment`, `lora` and `train`: what shapes the adapter, under torchvision's, PEFT's and Trainer's names."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from vitlora.core.params import Params, TogetherError
from vitlora.model.params import Lora

Decoder = Literal["simplejpeg", "pil"]


class Augment(Params):
    """Random crop and flip of training images: torchvision's RandomResizedCrop and RandomHorizontalFlip."""

    scale: tuple[float, float]
    ratio: tuple[float, float]
    horizontal_flip_p: float = Field(ge=0, le=1)

    @field_validator("scale", "ratio", mode="before")
    @classmethod
    def _two_numbers(cls, value: object) -> object:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise ValueError("two numbers, [min, max]")
        return tuple(value)

    @field_validator("scale")
    @classmethod
    def _fractions_of_the_area(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError("[min, max], fractions of the image area, 0 < min <= max <= 1")
        return value

    @field_validator("ratio")
    @classmethod
    def _width_over_height(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("[min, max], width over height, 0 < min <= max")
        return value


class Train(Params):
    """TrainingArguments, key by key. Validation happens once an epoch."""

    learning_rate: float = Field(gt=0, le=10)
    per_device_train_batch_size: int = Field(ge=1)
    per_device_eval_batch_size: int = Field(ge=1)
    gradient_accumulation_steps: int = Field(ge=1)
    num_train_epochs: int = Field(ge=1)
    weight_decay: float = Field(ge=0, le=1)
    warmup_steps: float = Field(ge=0)
    lr_scheduler_type: Literal[
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
    ]
    label_smoothing_factor: float = Field(ge=0, lt=1)
    max_grad_norm: float = Field(gt=0)
    optim: Literal["adamw_torch", "adamw_torch_fused", "adafactor", "sgd"]
    early_stopping_patience: int | None = Field(ge=1)
    load_best_model_at_end: bool
    metric_for_best_model: Literal["accuracy", "loss"]
    fp16: bool
    bf16: bool
    step: Literal["fused", "compiled", "eager"]
    fp8: bool
    join_micro_batches: bool
    dataloader_num_workers: int | None = Field(ge=0, le=256)
    decoder: Decoder
    logging_steps: int = Field(ge=1)
    save_steps: int = Field(ge=1)
    full_determinism: bool
    seed: int = Field(ge=0, lt=2**32)

    @field_validator("warmup_steps")
    @classmethod
    def _steps_or_a_fraction(cls, value: float) -> float:
        if value >= 1 and value != int(value):
            raise ValueError("a whole number of steps, or a fraction of all steps below 1")
        return value

    @model_validator(mode="after")
    def _one_precision(self) -> "Train":
        if self.fp16 and self.bf16:
            raise TogetherError("at most one is true; both false is fp32", "fp16", "bf16")
        if self.early_stopping_patience and not self.load_best_model_at_end:
            keys = ("early_stopping_patience", "load_best_model_at_end")
            raise TogetherError("patience needs load_best_model_at_end: true, else set it to null", *keys)
        return self


class TrainStage(Params):
    """What `train` reads."""

    augment: Augment
    lora: Lora
    train: Train
