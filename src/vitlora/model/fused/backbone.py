"""The forward and backward pass of a ViT with LoRA on query, key or value, written out for speed.

The same mathematics as transformers' and PEFT's modules, whose parameters it reads and whose gradients it gives; only
the order of work differs:

* Frozen weights and the residual stream are kept in half precision; statistics, softmax and sums over rows in float32.
* query, key and value are one product. LoRA's hidden columns h = dropout(x) A stand behind the input and B behind the
  frozen weight, [x, h] [W, s B] = x W + s h B, so that the adapters cost no pass over the output.
* GELU, and its slope on the way back, are done where the product before them makes its result.
* Dropout masks are drawn in the kernels that use them, from a hash of (seed, layer, row, column), and never stored.
* The patch embedding is a product over rows instead of a strided convolution.
* Where the head reads the class token only, the last layer computes only that row behind its keys and values.
* Nothing is computed or stored for the gradient of a frozen weight.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from torch.nn import functional

from vitlora.model.fused.attention import Parts, attention, attention_backward
from vitlora.model.fused.kernels import (
    RANK_STEP,
    Dropout,
    add_norm,
    lora_down,
    lora_input_grad,
    norm_backward,
    patches,
    tall_product,
)
from vitlora.model.fused.launch import only_compiling
from vitlora.model.fused.products import linear_gelu, times_slope

PROJECTIONS = ("q_proj", "k_proj", "v_proj")
OLD_PROJECTIONS = ("query", "key", "value")  # transformers before 5.9 (ViT) and 5.18 (DINOv2)
CLASS_TOKEN_HEADS = ("vit", "deit", "vit_msn")  # their classifiers read the first token only
OTHER_HEADS = ("dinov2", "dinov2_with_registers", "ijepa")  # these the patches' mean, alone or beside it


def why_not_fused(model: Any) -> str | None:
    """Return why this model, with or without LoRA, can't run fused, or None if it can.

    Args:
        model: An image classifier or a PEFT model of one.
    """
    core = _core(model)
    config = core.config
    known = CLASS_TOKEN_HEADS + OTHER_HEADS
    if config.model_type not in known:
        return f"{config.model_type} is none of {', '.join(known)}"
    if getattr(config, "use_swiglu_ffn", False) or config.hidden_act != "gelu":
        return "its activation is not GELU"
    if config.hidden_dropout_prob or config.attention_probs_dropout_prob or getattr(config, "drop_path_rate", 0):
        return "its config has dropout or drop path"
    other = _trained_otherwise(getattr(core, core.base_model_prefix))
    if other:
        return f"it trains more than plain LoRA: {other[0]}"
    adapted = [name for name, module in core.named_modules() if hasattr(module, "lora_A")]
    outside = [name for name in adapted if not name.endswith(PROJECTIONS + OLD_PROJECTIONS)]
    if outside:
        return f"an adapter sits outside query, key and value: {outside[0]}"
    return _why_not_lora([core.get_submodule(name) for name in adapted])


def _trained_otherwise(backbone: Any) -> list[str]:
    """Return what of the backbone is trained or adapted other than by LoRA, none of which the fused pass would see."""
    adapted = {name for name, module in backbone.named_modules() if isinstance(module, BaseTunerLayer)}
    lora = {name for name, module in backbone.named_modules() if hasattr(module, "lora_A")}
    places = tuple(f"{name}.lora_{part}." for name in lora for part in "AB")
    trained = [name for name, weight in backbone.named_parameters() if weight.requires_grad]
    return sorted(adapted - lora) + sorted(name for name in trained if not name.startswith(places))


def _why_not_lora(layers: Sequence[Any]) -> str | None:
    if layers and not any(weight.requires_grad for layer in layers for weight in layer.parameters()):
        return "its adapter is frozen"
    kinds = {(layer.r["default"], layer.scaling["default"], _p(layer)) for layer in layers}
    if len(kinds) > 1:
        return "rank, scale or dropout differ between layers"
    return "its LoRA is a variant" if any(layer.lora_variant for layer in layers) else None


def _p(layer: Any) -> float:
    return float(getattr(layer.lora_dropout["default"], "p", 0.0))


def _attention_parts(attention: Any) -> tuple[list[Any], Any]:
    """Return the query, key and value layers, and the output layer."""
    if hasattr(attention, "o_proj"):
        return [getattr(attention, name) for name in PROJECTIONS], attention.o_proj
    return [getattr(attention.attention, name) for name in OLD_PROJECTIONS], attention.output.dense


def _core(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@dataclass
class Layer:
    """One block's tensors in half precision. D is the width, slots the adapters on its input, R their padded rank.

    Attributes:
        norm1, norm2: weight and bias (D,) each, and eps.
        qkv: (3 D, D + slots · R): frozen weights, then B times the scale.
        qkv_bias: (3 D,).
        out, fc1, fc2: weight and bias of the other layers; layer scale, where there is one, is multiplied in.
        a: (slots, R, D).
        merged: (3 D, D), weights with the adapters added, for evaluation.
    """

    norm1: tuple[Tensor, Tensor, float]
    norm2: tuple[Tensor, Tensor, float]
    qkv: Tensor
    qkv_bias: Tensor
    out: tuple[Tensor, Tensor]
    fc1: tuple[Tensor, Tensor]
    fc2: tuple[Tensor, Tensor]
    a: Tensor
    merged: Tensor
    slots: list[int]  # of the three projections, those with an adapter


@dataclass
class Saved:
    """What one layer's backward pass needs of its forward pass."""

    stream: tuple[Tensor, Tensor, Tensor] | None = None
    middle: tuple[Tensor, Tensor, Tensor] | None = None
    xh: Tensor | None = None
    attention: tuple[Tensor, ...] = ()
    before_gelu: Tensor | None = None


class FusedBackbone:
    """Stands in for the forward method of a ViT's backbone.

    Args:
        model: An image classifier or a PEFT model of one, on its device, that ``why_not_fused`` lets pass.
        mean: Per channel, of pixels scaled to 0..1; images come in as bytes.
        std: Likewise.
        size: Side of the images, px.
        dtype: float16 or bfloat16; float32 is for tests.
    """

    def __init__(self, model: Any, mean: Sequence[float], std: Sequence[float], size: int, dtype: torch.dtype) -> None:
        core = _core(model)
        self.backbone = getattr(core, core.base_model_prefix)
        self.config, self.size, self.dtype = core.config, size, dtype
        device = next(core.parameters()).device
        self.mean, self.std = (torch.tensor(values, device=device, dtype=torch.float32) for values in (mean, std))
        blocks = self.backbone.layers if hasattr(self.backbone, "layers") else self.backbone.encoder.layer
        self.class_token_only = self.config.model_type in CLASS_TOKEN_HEADS
        self.scaling, self.p, self.rank = 1.0, 0.0, 0
        self.down: list[Tensor] = []  # PEFT's own parameters, layer by layer, projection by projection
        self.up: list[Tensor] = []
        with torch.no_grad():
            self._read_embeddings(size)
            self.layers = [self._read_layer(block) for block in blocks]
        self.first_row: Tensor | None = None  # of the batch, where it is the part of a larger one; None: 0
        self._merged_at: int | None = None  # version of the adapters that the merged weights hold

    def _half(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.dtype).contiguous()

    def _read_embeddings(self, size: int) -> None:
        embeddings = self.backbone.embeddings
        projection = embeddings.patch_embeddings.projection
        self.patch = int(projection.kernel_size[0])
        weight = projection.weight.flatten(1)
        self.patch_weight = self._half(functional.pad(weight, (0, -weight.shape[1] % 8)))
        # What a black image gives is all but the patches' own part: special tokens, positions, bias.
        black = torch.zeros(1, 3, size, size, device=projection.weight.device)
        with torch.autocast(black.device.type, enabled=False):
            self.table = self._half(embeddings(black)[0])

    def _read_layer(self, block: Any) -> Layer:
        projections, output = _attention_parts(block.attention)
        norm1 = getattr(block, "layernorm_before", None) or block.norm1
        norm2 = getattr(block, "layernorm_after", None) or block.norm2
        adapted = [layer for layer in projections if hasattr(layer, "lora_A")]
        for layer in adapted:
            self.down.append(layer.lora_A["default"].weight)
            self.up.append(layer.lora_B["default"].weight)
            self.scaling, self.p = layer.scaling["default"], _p(layer)
            self.rank = layer.r["default"]
        weights = [getattr(layer, "base_layer", layer) for layer in projections]
        frozen = self._half(torch.cat([layer.weight for layer in weights]))
        padded = -(-self.rank // RANK_STEP) * RANK_STEP
        biases = [layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias for layer in weights]
        width = frozen.shape[1]
        return Layer(
            norm1=(self._half(norm1.weight), self._half(norm1.bias), norm1.eps),
            norm2=(self._half(norm2.weight), self._half(norm2.bias), norm2.eps),
            qkv=functional.pad(frozen, (0, padded * len(adapted))).contiguous(),
            qkv_bias=self._half(torch.cat(biases)),
            out=self._product(output, getattr(block, "layer_scale1", None)),
            fc1=self._product(block.mlp.fc1, None),
            fc2=self._product(block.mlp.fc2, getattr(block, "layer_scale2", None)),
            a=frozen.new_zeros(len(adapted), padded, width),
            merged=frozen,
            slots=[place for place, layer in enumerate(projections) if hasattr(layer, "lora_A")],
        )

    def _product(self, linear: Any, scale: Any) -> tuple[Tensor, Tensor]:
        weight, bias = linear.weight, linear.bias
        if scale is not None:
            weight, bias = weight * scale.lambda1[:, None], bias * scale.lambda1
        return self._half(weight), self._half(bias)

    def __call__(self, pixel_values: Tensor, **_: Any) -> Any:
        """Return the backbone's output: last hidden states (N, 1 or S, D).

        Args:
            pixel_values: uint8 (N, 3, H, W), not normalised.
        """
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        with torch.autocast(pixel_values.device.type, enabled=False):
            if torch.is_grad_enabled() and self.down:
                rows = _Encoder.apply(self, pixel_values, *self.down, *self.up)
            else:
                self._merge()
                rows = self.forward(pixel_values, None, None)
            norm = self.backbone.layernorm
            # The head is trained in float32 under autocast; its input is normalised in float32 like its peers'.
            hidden = functional.layer_norm(rows.float(), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        return BaseModelOutputWithPooling(last_hidden_state=hidden)

    @torch.no_grad()
    def compile(self) -> None:
        """Compile all kernels before the first step, side by side: one by one they would take a core's time each."""
        first, size = next(self.backbone.parameters()), self.size
        images = torch.zeros(1, size, size, 3, dtype=torch.uint8, device=first.device).permute(0, 3, 1, 2)
        with only_compiling():
            if self.down:
                saved: list[Saved] = []
                dropout = Dropout(self.p, torch.zeros(len(self.layers), dtype=torch.int32, device=first.device))
                self.backward(torch.empty_like(self.forward(images, dropout, saved)), dropout, saved)
            self.forward(images.contiguous(), None, None)  # photographs lie channels last, squares don't

    def count_from(self, image: int) -> None:
        """Draw dropout as if the next batches stood behind so many images in a larger batch."""
        if self.first_row is None:
            self.first_row = torch.zeros((), dtype=torch.int32, device=self.table.device)
            self._counted_from = 0
        if image != self._counted_from:
            self._counted_from = image
            self.first_row.fill_(image * len(self.table))

    @torch.no_grad()
    def _merge(self) -> None:
        """Add the adapters to the frozen weights, anew if they have changed."""
        version = sum(weight._version for weight in (*self.down, *self.up))
        if not self.down or self._merged_at == version:
            return
        self._merged_at = version
        pairs = iter(zip(self.down, self.up, strict=True))
        for layer in self.layers:
            width = layer.merged.shape[1]
            layer.merged = layer.qkv[:, :width].clone()
            for slot in layer.slots:
                down, up = next(pairs)
                rows = layer.merged[slot * width : (slot + 1) * width]
                rows.copy_(rows.float() + self.scaling * (up.float() @ down.float()))

    @torch.no_grad()
    def _load_adapters(self) -> None:
        """Copy PEFT's float32 adapters to where the products read them; an optimiser step will follow."""
        self._merged_at = None
        targets_a, targets_b = [], []
        for layer in self.layers:
            width = layer.a.shape[2]
            for place, slot in enumerate(layer.slots):
                start = width + place * layer.a.shape[1]
                targets_a.append(layer.a[place, : self.rank])
                targets_b.append(layer.qkv[slot * width : (slot + 1) * width, start : start + self.rank])
        torch._foreach_copy_(targets_a, self.down)
        torch._foreach_copy_(targets_b, torch._foreach_mul(self.up, self.scaling))

    def forward(self, images: Tensor, dropout: Dropout | None, saved: list[Saved] | None) -> Tensor:
        """Run embeddings and layers.

        Args:
            images: uint8 (N, 3, H, W).
            dropout: Of this step; None uses the merged weights.
            saved: Gets what the backward pass needs; None keeps nothing.

        Returns:
            The residual stream, (N, 1 or S, D).
        """
        count = len(images)
        stream, delta = self._embed(images), None
        for number, layer in enumerate(self.layers):
            keep = Saved()
            last = self.class_token_only and number == len(self.layers) - 1
            xh = stream.new_empty(len(stream), layer.qkv.shape[1] if dropout else stream.shape[1])
            stream, mean, rstd = add_norm(stream, delta, *layer.norm1, xh)
            keep.stream, keep.xh = (stream, mean, rstd), xh
            if dropout and layer.slots:
                lora_down(xh, layer.a, dropout, number)
            heads = self._heads(xh, layer.qkv if dropout else layer.merged, layer.qkv_bias, count, last)
            mixed, keep.attention = attention(heads, count, self.config.num_attention_heads, saved is not None)
            if last:
                stream = stream.view(count, -1, stream.shape[1])[:, 0].contiguous()
            branch = functional.linear(mixed, *layer.out)
            y = torch.empty_like(stream)
            stream, mean, rstd = add_norm(stream, branch, *layer.norm2, y)
            keep.middle = (stream, mean, rstd)
            delta = self._mlp(y, layer, keep, saved is not None)
            if saved is not None:
                saved.append(keep)
        assert delta is not None
        return (stream + delta).view(count, -1, stream.shape[1])

    def _embed(self, images: Tensor) -> Tensor:
        embedded = functional.linear(patches(images, self.mean, self.std, self.patch, self.dtype), self.patch_weight)
        embedded = embedded.view(len(images), -1, embedded.shape[1])
        special = len(self.table) - embedded.shape[1]
        stream = embedded.new_empty(len(images), *self.table.shape)
        stream[:, :special] = self.table[:special]
        torch.add(embedded, self.table[special:], out=stream[:, special:])
        return stream.view(-1, stream.shape[2])

    def _heads(self, xh: Tensor, weight: Tensor, bias: Tensor, count: int, last: bool) -> Parts:
        """Return q, k and v, (M, D) each, side by side; in the last layer q of the class tokens only, (N, D)."""
        if not last:
            q, k, v = functional.linear(xh, weight, bias).chunk(3, 1)
            return q, k, v
        width = len(weight) // 3
        q = functional.linear(xh.view(count, -1, xh.shape[1])[:, 0], weight[:width], bias[:width])
        k, v = functional.linear(xh, weight[width:], bias[width:]).chunk(2, 1)
        return q, k, v

    def _mlp(self, y: Tensor, layer: Layer, keep: Saved, grad: bool) -> Tensor:
        keep.before_gelu, hidden = linear_gelu(y, *layer.fc1, grad)
        return functional.linear(hidden, *layer.fc2)

    def backward(self, grad: Tensor, dropout: Dropout, saved: list[Saved]) -> list[Tensor]:
        """Return gradients of ``down`` then ``up``, float32, given that of ``forward``'s result (N, 1 or S, D)."""
        count = len(grad)
        grad = grad.reshape(-1, grad.shape[2]).to(self.dtype, copy=True)
        downs: list[Tensor] = []
        ups: list[Tensor] = []
        for number in reversed(range(len(self.layers))):
            layer, keep = self.layers[number], saved.pop()
            grad = self._mlp_backward(grad, layer, keep)
            mixed = grad @ layer.out[0]
            last = self.class_token_only and number == len(self.layers) - 1
            dxh, dq_dk_dv = self._attention_backward(mixed, layer, count, keep, last, number > 0)
            down, up = self._adapter_grads(dxh, dq_dk_dv, layer, keep, dropout, number)
            downs[:0], ups[:0] = down, up
            if number == 0:
                break
            if last:
                wide = grad.new_zeros(count, len(dxh) // count, grad.shape[1])
                wide[:, 0] = grad
                grad = wide.view(-1, grad.shape[1])
            assert keep.stream is not None
            if layer.slots:
                lora_input_grad(dxh, layer.a, dropout, number)
            norm_backward(dxh, *keep.stream, layer.norm1[0], grad)
        return downs + ups

    def _mlp_backward(self, grad: Tensor, layer: Layer, keep: Saved) -> Tensor:
        assert keep.before_gelu is not None
        assert keep.middle is not None
        hidden = times_slope(grad, layer.fc2[0], keep.before_gelu)
        keep.before_gelu = None
        norm_backward(hidden @ layer.fc1[0], *keep.middle, layer.norm2[0], grad)
        return grad

    def _attention_backward(
        self, mixed: Tensor, layer: Layer, count: int, keep: Saved, last: bool, inner: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the gradient of x' (M, D + slots · R), of its last columns only in the first layer, and dq, dk, dv."""
        assert keep.xh is not None
        width, rows = layer.a.shape[2], len(keep.xh)
        side_by_side = mixed.new_empty(rows, (2 if last else 3) * width)
        dq = torch.empty_like(mixed) if last else side_by_side[:, :width]
        dk, dv = side_by_side[:, -2 * width :].chunk(2, 1)
        attention_backward(keep.attention, mixed, (dq, dk, dv))
        keep.attention = ()
        weights = layer.qkv if inner else layer.qkv[:, width:]  # nothing below the first layer is trained
        dxh = side_by_side @ weights[-side_by_side.shape[1] :]
        if last:
            first = dxh.view(count, -1, dxh.shape[1])[:, 0]
            first += dq @ weights[:width]
        return dxh, [dq, dk, dv]

    def _adapter_grads(
        self, dxh: Tensor, dq_dk_dv: list[Tensor], layer: Layer, keep: Saved, dropout: Dropout, number: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return float32 gradients of the layer's A (r, D) and B (D, r)."""
        slots, rank, width = layer.a.shape
        if not slots:
            return [], []
        assert keep.xh is not None
        x, h = keep.xh[:, :width], keep.xh[:, width:]
        down = tall_product(dxh[:, -slots * rank :], x, slots, rank, dropout, number)[:, : self.rank]
        up = []
        for place, slot in enumerate(layer.slots):
            grad = dq_dk_dv[slot]
            part = h[:: len(h) // len(grad), place * rank : (place + 1) * rank]  # class tokens only, in the last layer
            up.append(tall_product(part, grad, 1, rank)[0, : self.rank].T * self.scaling)
        return list(down), up


class _Encoder(torch.autograd.Function):
    """``FusedBackbone``'s two passes as one node of autograd's graph."""

    @staticmethod
    def forward(ctx: Any, fused: FusedBackbone, images: Tensor, *weights: Tensor) -> Tensor:
        """Return hidden states (N or N x S, D) of uint8 (N, 3, H, W); weights are named, so autograd asks for them."""
        fused._load_adapters()
        seeds = torch.randint(2**31 - 1, (len(fused.layers),), dtype=torch.int32, device=images.device)
        if fused.first_row is not None:
            seeds += fused.first_row  # kernels add the row's number to it
        training = fused.backbone.training
        ctx.fused, ctx.dropout, ctx.saved = fused, Dropout(fused.p if training else 0.0, seeds), []
        return fused.forward(images, ctx.dropout, ctx.saved)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Return the weights' gradients from that of the hidden states, of the same shape as these."""
        return None, None, *ctx.fused.backward(grad, ctx.dropout, ctx.saved)


def fuse(model: Any, mean: Sequence[float], std: Sequence[float], size: int, dtype: torch.dtype) -> None:
    """Replace the backbone's forward method, in place, by the fused one; it takes bytes, not normalised floats."""
    core = _core(model)
    backbone = getattr(core, core.base_model_prefix)
    fused = FusedBackbone(model, mean, std, size, dtype)
    if next(core.parameters()).is_cuda:
        fused.compile()
    backbone.forward = fused
