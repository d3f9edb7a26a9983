"""The MLP's products with GELU and its slope against float64; without a GPU in Triton's interpreter."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
products = pytest.importorskip("vitlora.model.fused.products", reason="needs Triton, which this platform lacks")
linear_gelu, times_slope = products.linear_gelu, products.times_slope

pytestmark = pytest.mark.slow  # on a CPU Triton is interpreted

LOOSE = {"rtol": 2e-2, "atol": 2e-3} if DEVICE == "cuda" else {"rtol": 1e-5, "atol": 1e-5}  # TF32 on a GPU
WAYS = pytest.mark.parametrize("many", [0, 10**9], ids=["cut as many rows are", "cut as few rows are"])
NUMPY_WARNS = pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")  # interpreted
INF, NAN = float("inf"), float("nan")


def gelu(h: Tensor) -> Tensor:
    """GELU in float64."""
    return 0.5 * h.double() * torch.erfc(-h.double() / 2**0.5)


def slope(h: Tensor) -> Tensor:
    """GELU's derivative in float64."""
    x = h.double()
    return 0.5 * torch.erfc(-x / 2**0.5) + x * torch.exp(-x * x / 2) / (2 * torch.pi) ** 0.5


def operands(rows: int, width: int, hidden: int, dtype=torch.float32) -> tuple[Tensor, ...]:
    """Return x or grad (rows, width), fc1, its bias, fc2 and h; h has values up to about 8."""
    torch.manual_seed(rows)
    kind = {"dtype": dtype, "device": DEVICE}
    x, bias, h = torch.randn(rows, width, **kind), torch.randn(hidden, **kind) * 0.3, torch.randn(rows, hidden, **kind)
    fc1, fc2 = (torch.randn(shape, **kind) * 1.7 / width**0.5 for shape in ((hidden, width), (width, hidden)))
    return x, fc1, bias, fc2, h * 1.7


@WAYS
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(
    ("rows", "width", "hidden"), [(1, 64, 256), (75, 8, 24), (197, 48, 96), (129, 72, 520), (300, 192, 264)]
)
def test_results_are_those_of_float64(rows, width, hidden, keep, many, monkeypatch):
    monkeypatch.setattr(products, "MANY_ROWS", many)
    x, fc1, bias, fc2, h = operands(rows, width, hidden)
    before, out = linear_gelu(x, fc1, bias, keep)
    want = x.double() @ fc1.double().T + bias
    torch.testing.assert_close(out.double(), gelu(want), **LOOSE)
    assert (before is None) == (not keep and products.fits(width, hidden, x.dtype, x.device))
    if before is not None:
        torch.testing.assert_close(before.double(), want, **LOOSE)
    want = x.double() @ fc2.double() * slope(h)
    torch.testing.assert_close(times_slope(x, fc2, h).double(), want, **LOOSE)


@WAYS
def test_half_precision_is_as_near_as_two_passes(many, monkeypatch):
    # Not bfloat16: the interpreter multiplies its bits as whole numbers.
    monkeypatch.setattr(products, "MANY_ROWS", many)
    assert_as_near(*operands(197, 96, 264, torch.float16))


def assert_as_near(x: Tensor, fc1: Tensor, bias: Tensor, fc2: Tensor, h: Tensor) -> None:
    """Compare largest errors with those of PyTorch's two passes: of h, of GELU of that h, and of the gradient."""
    before, out = linear_gelu(x, fc1, bias, keep=True)
    theirs = functional.linear(x, fc1, bias)
    want = x.double() @ fc1.double().T + bias.double()
    assert farthest(before, want) <= 1.5 * farthest(theirs, want)
    for found in (out, linear_gelu(x, fc1, bias, keep=False)[1]):
        assert farthest(found, gelu(before)) <= 1.5 * farthest(functional.gelu(before), gelu(before))
    want = x.double() @ fc2.double() * slope(h)
    product = x @ fc2
    theirs = torch.ops.aten.gelu_backward.grad_input(product, h, grad_input=product)
    assert farthest(times_slope(x, fc2, h), want) <= 1.5 * farthest(theirs, want)


def farthest(found: Tensor, want: Tensor) -> float:
    return (found.double() - want).abs().max().item()  # NaN, if any number was not written


def test_gelu_and_slope_keep_their_digits_over_the_whole_range():
    h = torch.linspace(-12, 12, 256 * 65, device=DEVICE).view(-1, 256)
    x = torch.ones(len(h), 8, device=DEVICE)
    fc2 = torch.full((8, 256), 0.125, device=DEVICE)
    if DEVICE == "cuda":  # the kernels take no float32 there
        h, x, fc2 = h.half(), x.half(), fc2.half()
    digits = {"rtol": 1e-3, "atol": 1e-4} if DEVICE == "cuda" else {"rtol": 0, "atol": 4e-6}
    torch.testing.assert_close(times_slope(x, fc2, h).double(), slope(h), **digits)
    one = torch.zeros(256, 8, device=DEVICE, dtype=h.dtype)
    for bias in h:
        _, out = linear_gelu(x[:1], one, bias.contiguous(), keep=False)
        torch.testing.assert_close(out[0].double(), gelu(bias), **digits)


@NUMPY_WARNS
@WAYS
@pytest.mark.parametrize("number", [NAN, INF, -INF, 6e4])
def test_what_is_not_finite_stays_so_and_stays_where_it_is(number, many, monkeypatch):
    """A step's gradients are looked over for what overflowed in half precision; 6e4 does, times 2."""
    monkeypatch.setattr(products, "MANY_ROWS", many)
    x, fc1, bias, fc2, h = operands(21, 64, 136, torch.float16)
    x[3, 5], fc1[:, 5], fc2[5] = number, 2, 2
    before, out = linear_gelu(x, fc1, bias, keep=True)
    assert_spoilt(before, 3)
    assert_spoilt(out, 3)
    if number == 6e4:
        h[3] = 2.0  # where the slope is above 1, so that the product with it overflows too
    assert_spoilt(times_slope(x, fc2, h), 3)


@NUMPY_WARNS
@WAYS
@pytest.mark.parametrize("number", [NAN, INF, -INF])
def test_the_slope_of_what_is_not_finite_is_not(number, many, monkeypatch):
    monkeypatch.setattr(products, "MANY_ROWS", many)
    x, _, _, fc2, h = operands(21, 64, 136, torch.float16)
    h[7] = number
    theirs = torch.ops.aten.gelu_backward(x @ fc2, h)
    assert_spoilt(theirs, 7)
    assert_spoilt(times_slope(x, fc2, h), 7)


@pytest.mark.parametrize("number", [65504.0, -65504.0, 5.75, -5.75, 1e-7, 0.0])
def test_large_and_small_numbers_have_slopes_too(number):
    x, _, _, fc2, h = operands(5, 16, 24, torch.float16)
    h[:] = number
    want = x.double() @ fc2.double() * slope(h)
    torch.testing.assert_close(times_slope(x, fc2, h).double(), want, rtol=1e-3, atol=1e-5)


def assert_spoilt(found: Tensor, row: int) -> None:
    """One row holds no finite number, all others nothing else."""
    finite = found.isfinite()
    assert not finite[row].any()
    finite[row] = True
    assert finite.all()


@pytest.mark.parametrize(("width", "hidden"), [(20, 64), (64, 100), (6, 4)])
def test_what_the_kernel_cant_take_goes_to_pytorch(width, hidden):
    assert not products.fits(width, hidden, torch.float16, torch.device(DEVICE))
    x, fc1, bias, fc2, h = operands(9, width, hidden)
    before, out = linear_gelu(x, fc1, bias, keep=True)
    want = x.double() @ fc1.double().T + bias
    torch.testing.assert_close(before.double(), want, **LOOSE)
    torch.testing.assert_close(out.double(), gelu(want), **LOOSE)
    torch.testing.assert_close(times_slope(x, fc2, h).double(), x.double() @ fc2.double() * slope(h), **LOOSE)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; this machine has none")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "width", "hidden"), [(100864, 768, 3072), (131584, 384, 1536), (6304, 768, 3072), (512, 1024, 4096)]
)
def test_half_precision_on_a_gpu_is_as_near_as_two_passes_and_equal_from_run_to_run(rows, width, hidden, dtype):
    x, fc1, bias, fc2, h = operands(rows, width, hidden, dtype)
    assert_as_near(x, fc1, bias, fc2, h)
    first, second = ((*linear_gelu(x, fc1, bias, keep=True), times_slope(x, fc2, h)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
