"""Print, as JSON, what Triton would compile for the fused step: a count by kernel, before and after real steps.

To be run by itself: it tells Triton that there is a Hopper card, and stops it before it compiles or starts anything.
"""

import json
import warnings
from collections import defaultdict

import torch
import triton
from peft import LoraConfig, get_peft_model
from transformers import ViTConfig, ViTForImageClassification
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from vitlora.model.fused import products
from vitlora.model.fused.backbone import FusedBackbone

SIZE = 32
SEEN: dict[str, set[str]] = defaultdict(set)


class Hopper:
    """What Triton asks of a driver before it compiles."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def note(*, key: str, fn, **_) -> bool:
    """Take a variant down; True keeps Triton from making it."""
    SEEN[fn.name.split(".")[-1]].add(key)
    return True


def counted() -> dict[str, int]:
    """Return the number of variants by kernel."""
    return {name: len(keys) for name, keys in sorted(SEEN.items())}


def main() -> None:
    """Compile, then train and score batches of several sizes, first and last rows odd, in both memory orders."""
    warnings.simplefilter("ignore")
    driver.set_active(Hopper())
    triton.knobs.runtime.jit_cache_hook = note
    products.MANY_ROWS = 200  # of the batches below, the largest is cut up another way
    config = ViTConfig(
        num_hidden_layers=6, hidden_size=64, num_attention_heads=1, intermediate_size=64, image_size=SIZE, patch_size=8
    )
    lora = LoraConfig(r=16, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])
    model = get_peft_model(ViTForImageClassification(config), lora)
    fused = FusedBackbone(model, [0.5] * 3, [0.5] * 3, SIZE, torch.float16)
    model.get_base_model().vit.forward = fused
    fused.compile()
    first = counted()
    for images in (32, 7, 1, 16, 17):
        photographs = torch.zeros(images, SIZE, SIZE, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
        model.train()
        model(pixel_values=photographs).logits.sum().backward()
        model.eval()
        with torch.inference_mode():
            model(pixel_values=photographs.contiguous())
    print(json.dumps([first, counted()]))


if __name__ == "__main__":
    main()
