"""`lora.method` and the keys that each method reads beside those of plain LoRA, under PEFT's own names and defaults.

Not offered, with PEFT 0.21: eva, corda and loftq, which initialise from activations or quantised weights; lily, which
can't be merged and so not exported; trainable_tokens, prompt, prefix and p-tuning, adaption_prompt, cpt and cartridge,
which are made for text; poly, which wants a task for every sample.
"""

from typing import Literal

from pydantic import Field

from vitlora.params import Params

Method = Literal[
    "lora", "dora", "rslora", "pissa", "olora", "gaussian",
    "adalora", "loha", "lokr", "oft", "boft", "hra", "ia3", "ln_tuning", "vera", "vblora", "randlora", "fourierft",
    "waveft", "c3a", "shira", "miss", "road", "delora", "gralora",
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
WITHOUT_ADAPTER = ("head", "full")


class NoOptions(Params):
    """Nothing beside the target layers."""


class LoraOptions(Params):
    """Ranks and scales for layers whose names end in, or match, a key."""

    rank_pattern: dict[str, int] = Field(default={})
    alpha_pattern: dict[str, float] = Field(default={})


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
    orth_reg_weight: float = Field(default=0.5, gt=0)


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
    """Orthogonal butterflies."""

    boft_block_size: int = Field(default=4, ge=2)
    boft_n_butterfly_factor: int = Field(default=1, ge=1)
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
    **dict.fromkeys(WITHOUT_ADAPTER, NoOptions),
}
