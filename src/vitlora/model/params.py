"""`lora`: the method, its layers, and the keys that each method reads, under PEFT's own names and defaults.

Not offered, with PEFT 0.21: eva, corda and loftq, which initialise from activations or quantised weights; lily, which
can't be merged and so not exported; trainable_tokens, prompt, prefix and p-tuning, adaption_prompt, cpt and cartridge,
which are made for text; poly, which wants a task for every sample.
"""

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, PrivateAttr, field_validator, model_validator

from vitlora.core.params import Params, TogetherError, validate

Name = Annotated[str, Field(min_length=1)]
Precision = Literal["fp16", "bf16", "fp32"]

Method = Literal[
    "lora", "dora", "rslora", "pissa", "olora", "gaussian",
    "adalora", "loha", "lokr", "oft", "boft", "hra", "ia3", "ln_tuning", "vera", "vblora", "randlora", "fourierft",
    "waveft", "c3a", "shira", "miss", "road", "delora", "gralora",
    "xlora", "merge",
    "head", "full",
]  # fmt: skip
# Plain LoRA and its relatives, which read r, lora_alpha, lora_dropout, bias, use_rslora; what they set in LoraConfig.
LORA_FAMILY: dict[str, dict[str, object]] = {
    "lora": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "gaussian": {"init_lora_weights": "gaussian"},
}
# They move a part of the base weights into the adapter; it is saved as plain LoRA of twice the rank on the base itself.
MOVING = ("pissa", "olora")
# Methods for a base in four bits: the others read a layer's weights, or move a part of them.
IN_FOUR_BITS = ("lora", "rslora", "gaussian")
WITHOUT_ADAPTER = ("head", "full")
MIXTURES = ("xlora", "merge")  # of adapters that are there already, so that they read no target layers


def _together(options: Params, rule: str, *keys: str) -> TogetherError:
    """Show those of the keys that are written out: options have defaults."""
    return TogetherError(rule, *(key for key in keys if key in options.model_fields_set))


class NoOptions(Params):
    """Nothing beside the target layers."""


class LoraOptions(Params):
    """Ranks and scales for layers whose names end in, or match, a key."""

    rank_pattern: dict[Name, Annotated[int, Field(ge=1)]] = Field(default={})
    alpha_pattern: dict[Name, Annotated[float, Field(gt=0)]] = Field(default={})


class AdaLora(Params):
    """Begins with ``init_r``, ends with ``target_r`` on average. The first and last parts train without pruning."""

    init_r: int = Field(default=12, ge=1)
    target_r: int = Field(default=8, ge=1)
    lora_alpha: float = Field(default=8, gt=0)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    tinit_fraction: float = Field(default=0.1, ge=0, lt=0.5)  # of all steps, so that it always fits
    tfinal_fraction: float = Field(default=0.3, gt=0, le=0.5)
    deltaT: int = Field(default=1, ge=1)  # noqa: N815 - PEFT's name
    beta1: float = Field(default=0.85, gt=0, lt=1)
    beta2: float = Field(default=0.85, gt=0, lt=1)

    @model_validator(mode="after")
    def _begins_above_its_target(self) -> "AdaLora":
        if self.target_r > self.init_r:
            raise _together(self, f"target_r ({self.target_r}) is at most init_r ({self.init_r})", "init_r", "target_r")
        return self


class LoHa(Params):
    """Hadamard products of two low-rank pairs."""

    r: int = Field(default=8, ge=1)
    alpha: int = Field(default=8, ge=1)
    rank_dropout: float = Field(default=0.0, ge=0, lt=1)
    module_dropout: float = Field(default=0.0, ge=0, lt=1)


class LoKr(LoHa):
    """Kronecker products."""

    decompose_both: bool = False
    decompose_factor: int = Field(default=-1, ge=-1)


class Oft(Params):
    """Rotations by orthogonal blocks; of r and oft_block_size one is 0 and follows from the other."""

    r: int = Field(default=0, ge=0)
    oft_block_size: int = Field(default=32, ge=0)
    module_dropout: float = Field(default=0.0, ge=0, lt=1)
    coft: bool = False
    block_share: bool = False


class Boft(Params):
    """Orthogonal butterflies of one factor: PEFT takes more only where it could compile a CUDA extension."""

    boft_block_size: int = Field(default=4, ge=2)
    boft_dropout: float = Field(default=0.0, ge=0, lt=1)


class Hra(Params):
    """Householder reflections."""

    r: int = Field(default=8, ge=1)
    apply_GS: bool = False  # noqa: N815 - PEFT's name


class Vera(Params):
    """Two vectors a layer around random matrices that all share."""

    r: int = Field(default=256, ge=1)
    projection_prng_key: int = Field(default=0, ge=0)
    vera_dropout: float = Field(default=0.0, ge=0, lt=1)
    d_initial: float = Field(default=0.1, gt=0)


class VbLora(Params):
    """Mixtures of vectors from one bank."""

    r: int = Field(default=4, ge=1)
    num_vectors: int = Field(default=256, ge=2)
    vector_length: int = Field(default=128, ge=1)  # divides the layers' sides
    topk: int = Field(default=2, ge=1)
    vblora_dropout: float = Field(default=0.0, ge=0, lt=1)


class RandLora(Params):
    """Sums of scaled random bases of full rank."""

    r: int = Field(default=32, ge=1)
    randlora_alpha: int = Field(default=640, ge=1)
    randlora_dropout: float = Field(default=0.0, ge=0, lt=1)
    projection_prng_key: int = Field(default=0, ge=0)


class FourierFt(Params):
    """Some coefficients of the update's Fourier transform."""

    n_frequency: int = Field(default=1000, ge=1)
    scaling: float = Field(default=150.0, gt=0)
    random_loc_seed: int = Field(default=777, ge=0)


class WaveFt(Params):
    """Some coefficients of the update's wavelet transform."""

    n_frequency: int = Field(default=2592, ge=1)
    scaling: float = Field(default=25.0, gt=0)
    random_loc_seed: int = Field(default=777, ge=0)


class C3a(Params):
    """Circular convolutions by blocks, whose size divides the layers' sides."""

    block_size: int = Field(default=64, ge=1)


class Shira(Params):
    """A sparse random part of the weights themselves."""

    r: int = Field(default=16, ge=1)
    random_seed: int = Field(default=0, ge=0)


class Miss(Params):
    """One matrix that is shared out over blocks of the weight."""

    r: int = Field(default=64, ge=1)
    miss_dropout: float = Field(default=0.0, ge=0, lt=1)
    mini_r: int = Field(default=1, ge=1)


class Road(Params):
    """Rotations of pairs of outputs."""

    variant: Literal["road_1", "road_2", "road_4"] = "road_1"
    group_size: int = Field(default=64, ge=2)


class DeLora(Params):
    """Low-rank updates of bounded length."""

    r: int = Field(default=8, ge=1)
    delora_lambda: int = Field(default=15, ge=1)
    module_dropout: float = Field(default=0.0, ge=0, lt=1)


class GraLora(Params):
    """A small adapter for every block of the weight."""

    r: int = Field(default=32, ge=1)
    alpha: int = Field(default=64, ge=1)
    gralora_k: int = Field(default=2, ge=1)
    gralora_dropout: float = Field(default=0.0, ge=0, lt=1)


# PATH@COMMIT, of this repository, or PATH@sha256:HEX; the pin itself is looked at when the adapter is.
Adapters = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
Combination = Literal[
    "linear", "ties", "dare_linear", "dare_ties", "magnitude_prune", "cat",
    "svd", "ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd",
]  # fmt: skip
PRUNING = tuple(name for name in get_args(Combination) if name.startswith(("ties", "dare", "magnitude")))


class XLora(Params):
    """A gate gives every token its own mixture of the adapters; it reads what the bare base model makes of the token.

    Beside the head only the gate is trained, and with ``use_trainable_adapters`` the adapters too.
    """

    adapters: Adapters
    top_k_lora: int | None = Field(default=None, ge=1)  # null is all of them
    layerwise_scalings: bool = False
    xlora_depth: int = Field(default=1, ge=1)
    xlora_size: int = Field(default=2048, ge=1)
    xlora_dropout_p: float = Field(default=0.2, ge=0, lt=1)
    softmax_temperature: float = Field(default=1.0, gt=0)
    enable_softmax: bool = True
    enable_softmax_topk: bool = False
    scaling_pass_value: float = 0.0
    global_scaling_weight: float = 1.0
    use_trainable_adapters: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> "XLora":
        if len(self.adapters) < 2:
            raise _together(self, "a mixture has at least two", "adapters")
        if (self.top_k_lora or 0) > len(self.adapters):
            raise _together(self, f"at most {len(self.adapters)}, the number of adapters", "top_k_lora")
        if self.enable_softmax_topk and (self.enable_softmax or not self.top_k_lora):
            keys = ("enable_softmax_topk", "enable_softmax", "top_k_lora")
            raise _together(self, "enable_softmax_topk needs top_k_lora, and enable_softmax: false", *keys)
        return self


class Merge(Params):
    """One plain LoRA adapter out of several by PEFT's add_weighted_adapter; it is frozen and a new head is trained."""

    adapters: Adapters
    combination_type: Combination = "linear"
    weights: list[float] | None = None  # null is 1/n each
    density: float | None = Field(default=None, gt=0, le=1)  # share of the values that pruning keeps
    svd_rank: int | None = Field(default=None, ge=1)  # null is the largest of the adapters'

    @model_validator(mode="after")
    def _fits_together(self) -> "Merge":
        if self.weights is not None and len(self.weights) != len(self.adapters):
            raise _together(self, "one weight for each adapter, or null", "weights", "adapters")
        if len(self.adapters) == 1 and self.combination_type != "linear":
            raise _together(self, "linear where there is one adapter", "combination_type", "adapters")
        if (self.density is None) == (self.combination_type in PRUNING):
            rule = f"density is for {', '.join(PRUNING)}, which need it"
            raise _together(self, rule, "density", "combination_type")
        if self.svd_rank and not self.combination_type.endswith("svd"):
            raise _together(self, "svd_rank is for svd and those that end in it", "svd_rank", "combination_type")
        return self


OPTIONS: dict[str, type[Params]] = {
    **dict.fromkeys(LORA_FAMILY, LoraOptions),
    "adalora": AdaLora,
    "loha": LoHa,
    "lokr": LoKr,
    "oft": Oft,
    "boft": Boft,
    "hra": Hra,
    "ia3": NoOptions,
    "ln_tuning": NoOptions,
    "vera": Vera,
    "vblora": VbLora,
    "randlora": RandLora,
    "fourierft": FourierFt,
    "waveft": WaveFt,
    "c3a": C3a,
    "shira": Shira,
    "miss": Miss,
    "road": Road,
    "delora": DeLora,
    "gralora": GraLora,
    "xlora": XLora,
    "merge": Merge,
    **dict.fromkeys(WITHOUT_ADAPTER, NoOptions),
}


# Keys of ranks that a layer's shorter side bounds; where PEFT refuses what is larger, they are not here.
RANKS = {**dict.fromkeys(LORA_FAMILY, "r"), "adalora": "init_r", "loha": "r", "hra": "r", "delora": "r"}
PLAIN = ("r", "lora_alpha", "lora_dropout", "bias", "use_rslora")  # keys of plain LoRA and its kin
LAYERS = ("target_modules", "exclude_modules", "layers_to_transform")
# Keys of the section that a method never reads.
UNREAD: dict[str, tuple[str, ...]] = {
    **{method: PLAIN for method in OPTIONS if method not in LORA_FAMILY},
    "rslora": ("use_rslora",),  # which it sets
    "ln_tuning": (*PLAIN, *LAYERS),  # it adapts all layer norms
    **dict.fromkeys((*MIXTURES, *WITHOUT_ADAPTER), (*PLAIN, *LAYERS)),
}


class Lora(Params):
    """PEFT's LoraConfig, key by key. What the base model allows of it is checked when the model is there."""

    method: Method
    """Lora and its kin, other PEFT methods, mixtures of adapters, head or full: docs/methods.md."""
    r: int = Field(ge=1)
    """Rank of each adapter; trained parameters grow with it."""
    lora_alpha: float = Field(gt=0)
    """Scale: updates are multiplied by lora_alpha / r."""
    lora_dropout: float = Field(ge=0, lt=1)
    """Share of the adapter's inputs that is dropped in training."""
    bias: Literal["none", "all", "lora_only"]
    """Which biases are trained too."""
    use_rslora: bool
    """Scale by lora_alpha / sqrt(r) instead."""
    target_modules: Name | list[Name] | None
    """Layers that get adapters: names in any family's spelling, a regex, a group (attention-qv, attention, mlp,
    all-linear), null for query and value.
    """
    exclude_modules: Name | list[Name] | None
    """Names or a regex, taken from those."""
    layers_to_transform: list[int] | None = Field(min_length=1)
    """Numbers of the blocks that get adapters; null is all."""
    modules_to_save: list[Name] = Field(min_length=1)
    """Layers trained in full and saved with the adapter; the new head must be among them."""
    options: dict[str, Any]
    """The method's own keys: docs/methods.md."""
    _own: Params = PrivateAttr()

    @model_validator(mode="after")
    def _options_of_the_method(self) -> "Lora":
        parsed, problems = validate(OPTIONS[self.method], self.options, "options")
        if parsed is None:
            known = ", ".join(OPTIONS[self.method].model_fields) or "none"
            raise TogetherError(f"{'; '.join(problems)} ({self.method} has the options {known})", "method", "options")
        self._own = parsed
        return self

    @property
    def own(self) -> Params:
        """The method's own options, defaults filled in; an object of ``OPTIONS[method]``."""
        return self._own

    @property
    def without_effect(self) -> list[str]:
        """Keys of this section that hold a value which the method never reads."""
        return [key for key in UNREAD.get(self.method, ()) if getattr(self, key) is not None]

    @field_validator("target_modules", mode="before")
    @classmethod
    def _names_a_pattern_or_null(cls, value: object) -> object:
        names = value if isinstance(value, list) else [value]
        if value is not None and not (names and all(isinstance(name, str) and name for name in names)):
            raise ValueError("a list of module names, a regex, a group's name, or null for query and value")
        if isinstance(value, str):
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"a regex that compiles ({error})") from None
        return value
