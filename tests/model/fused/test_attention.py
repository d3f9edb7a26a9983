"""Attention's kernels against PyTorch's attention and its gradients; without a GPU in Triton's interpreter."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
attention = pytest.importorskip("vitlora.model.fused.attention", reason="needs Triton, which this platform lacks")
Tuning, Tunings = attention.Tuning, attention.Tunings

pytestmark = pytest.mark.slow  # on a CPU Triton is interpreted

EXACT = {"rtol": 1e-4, "atol": 1e-5} if DEVICE == "cpu" else {"rtol": 2e-2, "atol": 5e-3}  # TF32 on a GPU
IMAGES, HEADS = 2, 2
ALONE = pytest.mark.parametrize("alone", [False, True], ids=["all tokens ask", "the class token asks"])


def heads_of(tokens: int, size: int, alone: bool, dtype=torch.float32, larger: float = 1.0):
    """Random q, k, v as a step has them, and room for their gradients, with a column behind that is nobody's."""
    width = HEADS * size
    rows = torch.randn(IMAGES * tokens, 3 * width, device=DEVICE) * larger
    first = rows.view(IMAGES, tokens, -1)[:, :1, :width].reshape(-1, width)
    rows = rows.to(dtype)
    q, k, v = rows.chunk(3, 1)
    room = torch.full((len(rows), 3 * width + 1), 7.0, dtype=dtype, device=DEVICE)
    dq, dk, dv = room[:, :-1].chunk(3, 1)
    if alone:
        q, dq = first.to(dtype), torch.full_like(first, 7.0, dtype=dtype)
    return (q, k, v), (dq, dk, dv), room


def reference(q_k_v, grad: Tensor, size: int) -> list[Tensor]:
    """Result and gradients by PyTorch in float32, each as rows."""
    parts = [part.float().reshape(IMAGES, -1, HEADS, size).transpose(1, 2).requires_grad_() for part in q_k_v]
    mixed = functional.scaled_dot_product_attention(*parts)
    into = grad.float().view(IMAGES, -1, HEADS, size).transpose(1, 2)
    found = [mixed, *torch.autograd.grad(mixed, parts, into)]
    return [part.detach().transpose(1, 2).reshape(-1, HEADS * size) for part in found]


def compare(tokens: int, size: int, alone: bool, tunings=attention.TUNINGS, tolerance=EXACT, **kind) -> None:
    torch.manual_seed(tokens)
    q_k_v, into, room = heads_of(tokens, size, alone, **kind)
    out, lse = attention.attend(*q_k_v, IMAGES, HEADS, tunings)
    grad = torch.randn_like(out)
    attention.attend_backward(*q_k_v, out, lse, grad, into, tunings)
    for name, got, want in zip(("out", "dq", "dk", "dv"), (out, *into), reference(q_k_v, grad, size), strict=True):
        torch.testing.assert_close(got.float(), want, **tolerance, msg=lambda text, name=name: f"{name}: {text}")
    assert (room[:, -1] == 7).all()  # nothing is written behind the rows
    assert not alone or (room[:, : HEADS * size] == 7).all()


@ALONE
@pytest.mark.parametrize(("tokens", "size"), [(1, 32), (17, 16), (32, 16), (40, 64)])
def test_result_and_gradients_are_those_of_pytorch(tokens, size, alone):
    small = Tuning(block=16, piece=32)  # so that few tokens make several blocks and pieces, and rests of both
    compare(tokens, size, alone, Tunings(small, small, small))


@pytest.mark.faults  # ten seconds in the interpreter
@ALONE
@pytest.mark.parametrize("tokens", [50, 197, 257, 261, 320])
def test_result_and_gradients_are_those_of_pytorch_at_the_sizes_of_models(tokens, alone):
    compare(tokens, 64, alone)


def test_half_precision_keeps_its_digits():
    # Not bfloat16: the interpreter multiplies its bits as whole numbers.
    compare(21, 16, False, tolerance={"rtol": 0.02, "atol": 0.01}, dtype=torch.float16)


def test_scores_beyond_what_an_exponential_holds_stay_finite():
    # In half precision, whose products are exact: TF32's, on a GPU, would move scores as large as these.
    compare(19, 16, False, tolerance={"rtol": 0.02, "atol": 0.1}, larger=30.0, dtype=torch.float16)


@ALONE
@pytest.mark.parametrize(("tokens", "size"), [(5, 24), (3, 80), (330, 16)])
def test_what_the_kernels_cant_take_goes_to_pytorch(tokens, size, alone):
    assert not attention.fits(tokens, size, torch.device(DEVICE))
    torch.manual_seed(1)
    q_k_v, into, room = heads_of(tokens, size, alone)
    out, saved = attention.attention(q_k_v, IMAGES, HEADS, grad=True)
    grad = torch.randn_like(out)
    attention.attention_backward(saved, grad, into)
    for got, want in zip((out, *into), reference(q_k_v, grad, size), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert (room[:, -1] == 7).all()


@pytest.mark.parametrize(
    ("rows", "largest", "cuts"),
    [(197, 64, (64, 64, 64, 16)), (257, 128, (128, 128, 16)), (50, 64, (64,)), (1, 64, (16,)), (128, 64, (64, 64))],
)
def test_pieces_hold_all_rows_and_waste_few(rows, largest, cuts):
    assert attention.pieces(rows, largest) == cuts


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; this machine has none")
@ALONE
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tokens", [50, 197, 257])
def test_half_precision_on_a_gpu_is_as_near_to_float32_as_pytorchs(tokens, dtype, alone):
    torch.manual_seed(0)
    q_k_v, into, _ = heads_of(tokens, 64, alone, dtype)
    out, lse = attention.attend(*q_k_v, IMAGES, HEADS)
    grad = torch.randn_like(out)
    attention.attend_backward(*q_k_v, out, lse, grad, into)
    parts = [part.reshape(IMAGES, -1, HEADS, 64).transpose(1, 2).detach().requires_grad_() for part in q_k_v]
    mixed = functional.scaled_dot_product_attention(*parts)
    theirs = [mixed, *torch.autograd.grad(mixed, parts, grad.view(IMAGES, -1, HEADS, 64).transpose(1, 2))]
    wanted = reference(q_k_v, grad, 64)
    for name, got, other, want in zip(("out", "dq", "dk", "dv"), (out, *into), theirs, wanted, strict=True):
        rows = other.detach().transpose(1, 2).reshape(want.shape)
        assert (got - want).norm() <= 1.5 * (rows - want).norm() + 1e-6 * want.norm(), name
