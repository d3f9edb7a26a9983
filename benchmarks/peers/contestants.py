"""Who takes part, and who can't."""

from dataclasses import dataclass, field
from typing import Any

# Operations per image of ViT-B/16 at 224 px, counted: forward and activation gradients, or those of all weights too.
LORA_FLOPS, FULL_FLOPS = 71.4e9, 105.1e9


@dataclass(frozen=True)
class Contestant:
    """One row.

    Attributes:
        what: It is.
        module: That runs it.
        options: Of that.
        flops: Operations per training image.
        slow: Gets fewer images.
        hub: Reads a folder in Hub layout, with `datasets`.
        skipped: Why it can't take part.
    """

    what: str
    module: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    flops: float = LORA_FLOPS
    slow: bool = False
    hub: bool = False
    skipped: str = ""


CONTESTANTS = {
    "tutorial": Contestant(
        "PEFT's image-classification tutorial, names fixed: datasets + torchvision, Trainer, no workers",
        "tutorial",
        {"workers": False},
        slow=True,
        hub=True,
    ),
    "workers": Contestant(
        "the tutorial with loader processes that stay, pinned memory, 4 batches ahead each",
        "tutorial",
        {"workers": True},
        hub=True,
    ),
    "full": Contestant(
        "full fine-tuning as in transformers' run_image_classification.py, loader as in `workers`",
        "full",
        flops=FULL_FLOPS,
        hub=True,
    ),
    "trainer": Contestant("transformers' Trainer, PEFT's modules, torchvision, torch's loader", "plain_trainer"),
    "trainer-compile": Contestant("the same with torch_compile: true", "plain_trainer", {"compile_mode": "default"}),
    "trainer-reduce-overhead": Contestant(
        "the same with torch_compile_mode: reduce-overhead", "plain_trainer", {"compile_mode": "reduce-overhead"}
    ),
    "loop": Contestant("plain PyTorch loop, autocast + GradScaler, PEFT's modules, our data", "loop"),
    "timm": Contestant(
        "timm loader and prefetcher, timm's ViT of that size, PEFT LoRA r=16 on qkv, plain loop", "timm_loop"
    ),
    "eager": Contestant("our train stage, train.step: eager", "ours", {"step": "eager"}),
    "compiled": Contestant("our train stage, train.step: compiled", "ours", {"step": "compiled"}),
    "fused": Contestant("our train stage, train.step: fused", "ours", {"step": "fused"}),
    "eager-uncaptured": Contestant(
        "our train stage, train.step: eager, train.cuda_graph: false", "ours", {"step": "eager", "cuda_graph": False}
    ),
    "fused-uncaptured": Contestant(
        "our train stage, train.step: fused, train.cuda_graph: false", "ours", {"step": "fused", "cuda_graph": False}
    ),
    "autogluon": Contestant(
        "AutoGluon MultiModalPredictor with optim.peft: lora",
        skipped="autogluon.multimodal 1.6.3 needs torch >=2.10,<2.14 and transformers >=5.3,<5.15; the resolver "
        "refuses it beside transformers 5.17 or 5.23, and beside torch 2.14",
    ),
    "ludwig": Contestant(
        "Ludwig with an image encoder and an adapter",
        skipped="ludwig 0.17.10 needs Python >=3.12; there it resolves beside torch 2.11 to 2.14 and transformers 5.17 "
        "to 5.23 but brings some 155 packages (bitsandbytes, spaCy, torchaudio, torchcodec among them); not installed, "
        "so not measured. It puts adapters only on encoders that it loads with pretrained weights",
    ),
}
