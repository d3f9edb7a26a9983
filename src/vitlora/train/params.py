"""`augment`, `lora` and `train`: what shapes the adapter, under torchvision's, PEFT's and Trainer's names."""

from math import inf
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from vitlora.core.params import Params, TogetherError
from vitlora.core.text import counted
from vitlora.model.params import Lora
from vitlora.processes.params import NumProcesses

Decoder = Literal["simplejpeg", "pil"]
Sampling = Literal["shuffled", "balanced"]
ClassWeights = Literal["none", "balanced", "effective_number"]
CLASS_WEIGHTS = get_args(ClassWeights)
POLYNOMIAL_END = 1e-7  # transformers' lr_end


class Augment(Params):
    """What is done to training images, each by torchvision's law: crop, flip, policy, colours, erasing, mixing."""

    scale: tuple[float, float]
    """Least and largest share of the area that a crop covers."""
    ratio: tuple[float, float]
    """Least and largest width over height of a crop."""
    horizontal_flip_p: float = Field(ge=0, le=1)
    """How often an image is mirrored."""
    policy: Literal["none", "randaugment", "trivialaugment", "augmix"]
    """Random operations on colours and shape: none, or torchvision's RandAugment, TrivialAugmentWide or AugMix."""
    randaugment_num_ops: int = Field(ge=1, le=14)
    """Operations on an image, with policy: randaugment."""
    randaugment_magnitude: int = Field(ge=0, le=30)
    """How strong they are."""
    color_jitter: float = Field(ge=0, le=1)
    """Brightness, contrast and saturation are multiplied by 1 - this to 1 + this, each on its own; 0 is none."""
    erasing_p: float = Field(ge=0, le=1)
    """How often a rectangle of 2 to 33 % of the image gets the base's mean colour."""
    mixup_alpha: float = Field(ge=0)
    """Images and labels of a micro-batch are blended in pairs, by a share of Beta(this, this); 0 is never."""
    cutmix_alpha: float = Field(ge=0)
    """Likewise, by pasting a rectangle; with mixup_alpha each micro-batch has one or the other, equally often."""

    @property
    def alters(self) -> bool:
        """Whether an image is changed beyond crop and flip before it is mixed."""
        return self.policy != "none" or self.color_jitter > 0 or self.erasing_p > 0

    @property
    def mixes(self) -> bool:
        """Whether images are mixed in pairs."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0

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


MOST = 1_000_000  # of counts beyond which numbers are slips


class Train(Params):
    """TrainingArguments, key by key. Validation happens once an epoch."""

    learning_rate: float = Field(gt=0, le=10)
    """Peak of the schedule."""
    per_device_train_batch_size: int = Field(ge=1, le=MOST)
    """Images of a micro-batch."""
    per_device_eval_batch_size: int = Field(ge=1, le=MOST)
    """Images at once in validation; speed only."""
    gradient_accumulation_steps: int = Field(ge=1, le=MOST)
    """Micro-batches of one optimiser step."""
    num_processes: NumProcesses
    """Of train and evaluate: processes, one a GPU, that share each step's images; auto: all visible GPUs, else 1."""
    num_train_epochs: int = Field(ge=1, le=MOST)
    """Passes over the training images."""
    head_learning_rate: float | None = Field(gt=0, le=10)
    """Peak for the new head; null is learning_rate."""
    head_only_epochs: int = Field(ge=0)
    """In so many epochs the new head is trained alone, then all is; 0 is none."""
    layer_decay: float = Field(gt=0, le=1)
    """Each block below the last has this much of the rate of the one above it; 1 is the same for all."""
    ema_decay: float = Field(ge=0, lt=1)
    """Above 0, a running average of the trained weights is validated and saved; 0.99 to 0.999 for long runs."""
    swa_epoch_start: int | None = Field(ge=1)
    """From the end of this epoch on, the plain mean of the epochs' weights is validated and saved; null is never."""
    soup_size: int | None = Field(ge=2)
    """So many of the best epochs are averaged at the end, each only if val is no worse for it; null is none."""
    max_minutes: float | None = Field(gt=0)
    """Training ends after the last epoch that is sure to fit in, with the best so far; null is never."""
    weight_decay: float = Field(ge=0, le=1)
    """Of AdamW."""
    warmup_steps: float = Field(ge=0)
    """Steps, or a fraction of all steps if below 1."""
    lr_scheduler_type: Literal[
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
    ]
    """Shape of the learning rate after the warm-up."""
    label_smoothing_factor: float = Field(ge=0, lt=1)
    """Share of a label that is spread over all classes."""
    class_weights: ClassWeights | dict[str, Annotated[float, Field(gt=0)]]
    """How much an image counts by its class: balanced (1 / images), effective_number, or class names with weights."""
    sampling: Sampling
    """What an epoch shows: shuffled, every image once; balanced, as many in all, but equally many of each class."""
    focal_gamma: float = Field(ge=0, le=10)
    """Above 0, images that are already right count less (focal loss; 2 is usual)."""
    logit_adjustment: float = Field(ge=0, le=10)
    """Above 0, logits are shifted by the classes' shares in training, so rare ones are not passed over (1 is usual)."""
    teacher: str | None = Field(min_length=1)
    """An exported model of the same classes, to learn from its scores: PATH@COMMIT or PATH@sha256:HEX; or null."""
    distillation_alpha: float = Field(gt=0, le=1)
    """With a teacher: its share in the loss; the labels have the rest."""
    distillation_temperature: float = Field(gt=0, le=100)
    """With a teacher: the higher, the more the classes count that it finds unlikely."""
    max_grad_norm: float = Field(gt=0)
    """Longer gradients are cut to this length."""
    optim: Literal["adamw_torch", "adamw_torch_fused", "adafactor", "sgd"]
    """Optimiser, by the Trainer's name."""
    early_stopping_patience: int | None = Field(ge=1)
    """Epochs without a better val score before training stops; null is never."""
    load_best_model_at_end: bool
    """Keep the epoch that is best on val, not the last."""
    metric_for_best_model: Literal["accuracy", "balanced_accuracy", "loss"]
    """What best means on val; balanced_accuracy counts every class alike."""
    fp16: bool
    """Half precision on a GPU; elsewhere fp32 is used, said and recorded."""
    bf16: bool
    """Bfloat16 on a GPU, or on a processor that has it."""
    step: Literal["fused", "compiled", "eager"]
    """On a GPU: fused (our own passes: ViT, DeiT, DINOv2 with LoRA on q, k, v; else eager), compiled, eager."""
    cuda_graph: bool
    """On a GPU: the whole step is captured once and replayed, several times as fast for small batches."""
    load_in_4bit: bool
    """The base's linear layers in four bits (QLoRA), for GPUs that a large base does not fit; needs bitsandbytes."""
    activation_checkpointing: bool
    """Blocks are run again in the backward pass (gradient checkpointing): less memory, a forward pass more, eager."""
    join_micro_batches: bool
    """On a GPU: accumulated micro-batches are joined as far as memory holds them; equal gradients."""
    dataloader_num_workers: int | None = Field(ge=0, le=256)
    """Processes that decode; speed only; null: cores - 2 on a GPU (at most 14), else 0."""
    decoder: Decoder
    """Training photos: simplejpeg (fast, a level off here and there) or pil (bit-equal with torchvision)."""
    logging_steps: int = Field(ge=1)
    """Optimiser steps between rows of steps.csv."""
    save_steps: int = Field(ge=1)
    """Steps between checkpoints (above 64 MiB fewer); an interrupted run goes on from one with the same result."""
    report_to: list[Literal["tensorboard", "wandb", "mlflow", "trackio", "clearml", "swanlab"]]
    """Trackers of the Trainer's that get its log too; they must be installed, and change no output."""
    full_determinism: bool
    """On a GPU: the same bits every time, slower; on a CPU they are the same anyway."""
    seed: int = Field(ge=0, lt=2**32)
    """Of head, adapters, order, augmentation and dropout."""

    @field_validator("class_weights", mode="before")
    @classmethod
    def _a_kind_or_weights(cls, value: object) -> object:
        """Word the rule as a whole: of a union, each kind would have its own say."""
        weights = value.values() if isinstance(value, dict) else ()
        by_name = isinstance(value, dict) and all(type(each) in (int, float) and 0 < each < inf for each in weights)
        if not by_name and value not in CLASS_WEIGHTS:
            kinds = ", ".join(CLASS_WEIGHTS)
            raise ValueError(f"{kinds}, or names of classes with finite weights above 0, such as {{lynx: 5}}")
        return value

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
        if self.sampling == "balanced" and (self.class_weights != "none" or self.logit_adjustment):
            rule = (
                "each makes up for unequal classes, two of them twice: sampling shuffled, or class_weights none and 0"
            )
            raise TogetherError(rule, "sampling", "class_weights", "logit_adjustment")
        if self.head_only_epochs >= self.num_train_epochs:
            rule = "head_only_epochs is below num_train_epochs; lora.method: head trains nothing else"
            raise TogetherError(rule, "head_only_epochs", "num_train_epochs")
        if self.swa_epoch_start and self.ema_decay:
            rule = "one average of the weights: set ema_decay to 0.0 or swa_epoch_start to null"
            raise TogetherError(rule, "ema_decay", "swa_epoch_start")
        if self.swa_epoch_start and self.swa_epoch_start >= self.num_train_epochs:
            rule = "swa_epoch_start is below num_train_epochs, so that there is more than one epoch to average"
            raise TogetherError(rule, "swa_epoch_start", "num_train_epochs")
        if self.soup_size and not self.load_best_model_at_end:
            rule = "a soup is made of the best epochs: load_best_model_at_end: true, or soup_size: null"
            raise TogetherError(rule, "soup_size", "load_best_model_at_end")
        if self.lr_scheduler_type == "polynomial" and self.learning_rate <= POLYNOMIAL_END:
            rule = f"polynomial falls to {POLYNOMIAL_END:g}, so learning_rate is above that"
            raise TogetherError(rule, "learning_rate", "lr_scheduler_type")
        return self

    @property
    def without_effect(self) -> dict[str, str]:
        """Keys of this section that have no effect beside its others, and why."""
        patience, epochs = self.early_stopping_patience or 0, self.num_train_epochs
        reasons = {
            "warmup_steps": (
                self.lr_scheduler_type == "constant" and self.warmup_steps > 0,
                "constant has no warm-up; constant_with_warmup has",
            ),
            "early_stopping_patience": (patience >= epochs, f"there are {epochs} epochs"),
            "soup_size": (bool(self.soup_size) and epochs == 1, "there is 1 epoch"),
            "metric_for_best_model": (not self.load_best_model_at_end, "load_best_model_at_end is false"),
        }
        return {key: why for key, (idle, why) in reasons.items() if idle}


class TrainStage(Params):
    """What `train` reads."""

    augment: Augment
    lora: Lora
    train: Train

    @property
    def parts(self) -> tuple[int, str]:
        """How many parts the images of a step can be cut into, and why no more: what is mixed stays together."""
        batch, accumulated = self.train.per_device_train_batch_size, self.train.gradient_accumulation_steps
        if self.augment.mixes:
            return accumulated, (
                f"since a step has {counted(accumulated, 'group')} of {batch} images, within which images are mixed; "
                "lower train.per_device_train_batch_size, and raise train.gradient_accumulation_steps by as much"
            )
        return batch * accumulated, "the images of a step"
