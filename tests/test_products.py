"""Products with large Jacobians, where the CPU may take float32, and how matrix products are computed."""

from __future__ import annotations

import pytest
import torch

from mtrl_conic.combiners import products
from mtrl_conic.combiners.products import gramian, weighted_sum
from mtrl_conic.system import matmul
from mtrl_conic.system.looks import seen_finite
from mtrl_conic.system.provenance import provenance

SIZE = products._LARGE + 37  # columns that no piece divides


def normals(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_least_cosine(num_tasks, least):
    """Gradients [1, K, P] of unequal sizes whose matrix of cosines has an eigenvalue near `least`."""
    jacobian = normals(num_tasks, SIZE)
    jacobian[0] = jacobian[1:].mean(0) + least**0.5 * normals(SIZE, seed=1)
    return (jacobian * torch.logspace(-3, 3, num_tasks).unsqueeze(1)).unsqueeze(0)


@pytest.mark.parametrize("num_tasks", [2, 10, 50])
@pytest.mark.parametrize("least", [1, 3e-2, 1e-2, 3e-3, 1e-4, 1e-6, 1e-8])
def test_the_shortest_sum_follows_from_the_gramian(num_tasks, least):
    jacobian = with_least_cosine(num_tasks, least)
    double = jacobian.double()
    exact, found = double @ double.mT, gramian(jacobian)
    norms = exact.diagonal(dim1=1, dim2=2).sqrt()
    scale = norms.unsqueeze(1) * norms.unsqueeze(2)
    assert ((found - exact).abs() <= 1e-7 * scale).all()
    shortest = torch.linalg.eigh(exact / scale).eigenvectors[0, :, 0] / norms[0]
    for weights in (shortest, normals(num_tasks).double(), torch.ones(num_tasks).double()):
        square = (weights @ double[0]).square().sum()
        torch.testing.assert_close(weights @ found[0] @ weights, square, rtol=1e-4, atol=0)


def test_both_ways_are_taken():
    near, far = with_least_cosine(10, 1e-6), with_least_cosine(10, 1)
    jacobian = torch.cat((near, far, 1e-25 * far, 0 * far, 1e20 * far))
    assert products._may_cancel(products._fast_gramian(jacobian)).tolist() == [True, False, True, True, True]
    together = gramian(jacobian)
    for row in range(5):
        assert torch.equal(together[row : row + 1], gramian(jacobian[row : row + 1].clone())), row
    torch.testing.assert_close(together[0], products._exact_gramian(near)[0], rtol=1e-12, atol=0)


def square_error(found, double, weights):
    """How far the square of a weighted sum by a Gramian [K, K] is from that of the rows [K, P], relative to it."""
    square = (weights @ double).square().sum()
    return ((weights @ found @ weights - square) / square).abs().item()


@pytest.mark.parametrize("num_tasks", [2, 5, 10, 50])
@pytest.mark.parametrize("least", [1, 3e-2, 1.7e-2, 1e-2, 1e-3])
def test_the_promise_holds_whatever_the_library_rounds(num_tasks, least, monkeypatch):
    """Each float32 product may be wrong by 256 roundings of its terms: here in the direction that does most harm."""
    jacobian = with_least_cosine(num_tasks, least)
    exact = products._exact_gramian(jacobian)
    norms = exact.diagonal(dim1=1, dim2=2).sqrt()
    scale = norms.unsqueeze(1) * norms.unsqueeze(2)
    shortest = torch.linalg.eigh(exact / scale).eigenvectors[0, :, 0]
    worst = 256 * 2.0**-24 * scale * torch.outer(shortest.sign(), shortest.sign())
    monkeypatch.setattr(products, "_fast_gramian", lambda jacobian: exact + worst)
    found = gramian(jacobian)
    assert square_error(found[0], jacobian[0].double(), shortest / norms[0]) <= num_tasks * 1e-3


@pytest.mark.parametrize("kind", ["constant", "piecewise constant", "spikes"])
@pytest.mark.parametrize("num_tasks", [2, 5, 10])
def test_roundings_that_do_not_cancel_stay_in_the_bound(num_tasks, kind):
    """The same rounding in each piece; where a piece begins with a large number, small ones may be lost beside it."""
    if kind == "spikes":
        jacobian = torch.full((num_tasks, SIZE), 2.4e-4)
        jacobian[:, ::256] = 1 + 0.1 * torch.arange(num_tasks).unsqueeze(1)
    else:
        pieces = 1 if kind == "constant" else 64
        values = normals(num_tasks, pieces)
        jacobian = values.repeat_interleave(-(-SIZE // pieces), 1)[:, :SIZE]
    jacobian = jacobian.unsqueeze(0)
    exact, fast = products._exact_gramian(jacobian), products._fast_gramian(jacobian)
    norms = exact.diagonal(dim1=1, dim2=2).sqrt()
    scale = norms.unsqueeze(1) * norms.unsqueeze(2)
    assert ((fast - exact).abs() <= 256 * 2.0**-24 * scale).all()
    eigen = torch.linalg.eigh(exact / scale)
    if eigen.eigenvalues[0, 0] > 1e-9:
        shortest = eigen.eigenvectors[0, :, 0] / norms[0]
        assert square_error(gramian(jacobian)[0], jacobian[0].double(), shortest) <= num_tasks * 1e-3


@pytest.mark.usefixtures("_restore_precision")
@pytest.mark.parametrize("num_tasks", [2, 10, 50])
def test_the_fast_gramian_is_float32_by_whatever_library(num_tasks):
    jacobian = with_least_cosine(num_tasks, 1)
    matmul.set_matmul_precision("highest", "cpu")  # by oneDNN where that is exact
    of_runs = products._fast_gramian(jacobian)
    torch.set_float32_matmul_precision("highest")
    by_mkl, exact = products._fast_gramian(jacobian), products._exact_gramian(jacobian)
    norms = exact.diagonal(dim1=1, dim2=2).sqrt()
    for found in (of_runs, by_mkl):
        assert ((found - exact).abs() <= 1e-7 * norms.unsqueeze(1) * norms.unsqueeze(2)).all()


@pytest.mark.usefixtures("_restore_precision")
def test_only_many_pieces_of_few_rows_change_a_setting(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: seen.append(precision))
    for module in (products, matmul):
        monkeypatch.setattr(module, "cpu_is_exact", lambda: True)
    for onednn in (True, False):
        for module in (products, matmul):
            monkeypatch.setattr(module, "by_onednn", lambda onednn=onednn: onednn)
        for num_tasks, size in ((2, SIZE), (2, products._MANY_COLUMNS), (17, products._MANY_COLUMNS), (2, 100)):
            jacobian = normals(1, num_tasks, size)
            gramian(jacobian)
            assert products.leaves_settings_alone(jacobian) == (
                not onednn or (num_tasks, size) != (2, products._MANY_COLUMNS)
            )
            assert products.leaves_settings_alone(jacobian) == (not seen)
            seen.clear()


def test_where_float32_products_are_not_exact_float64_takes_over(monkeypatch):
    jacobian = with_least_cosine(3, 1)
    monkeypatch.setattr(products, "cpu_is_exact", lambda: False)
    monkeypatch.setattr(products, "_fast_gramian", None)
    assert torch.equal(gramian(jacobian), products._exact_gramian(jacobian))


@pytest.mark.parametrize(
    ("numbers", "finite"),
    [
        ([1.0, -2.0], True),
        ([float("inf"), 1.0], False),
        ([float("inf"), -float("inf")], False),
        ([float("nan")], False),
        ([3e38, 3e38], True),
    ],
)
def test_one_look_tells_whether_numbers_are_finite(numbers, finite):
    assert seen_finite(torch.ones(2), torch.tensor(numbers)) is finite
    assert not seen_finite(torch.ones(2, device="meta"))  # never looks where it would wait


def test_numbers_that_are_none_pass_through():
    jacobian = with_least_cosine(3, 1)
    jacobian[0, 1, 5] = float("nan")
    assert gramian(jacobian)[0, 1].isnan().all()
    assert gramian(jacobian)[0, 0, 2].isfinite()


def test_a_sum_that_cancels_is_exact():
    jacobian = torch.cat((with_least_cosine(10, 1e-8), with_least_cosine(10, 1)))
    squares = gramian(jacobian).diagonal(dim1=1, dim2=2)
    cancelling = torch.ones(2, 10, dtype=torch.float64) / 9
    cancelling[:, 0] = -1
    weights = cancelling * squares[:, 1:2].sqrt() / squares.sqrt()  # the rows were scaled
    weights[0] = cancelling[0] * torch.logspace(3, -3, 10)
    expected = torch.einsum("sk,skp->sp", weights, jacobian.double()).float()
    found = weighted_sum(weights, jacobian, gramian=gramian(jacobian))
    error = (found - expected).norm(dim=1) / expected.norm(dim=1)
    assert error[0] < 1e-7
    assert error[1] < 1e-5


def test_the_setting_of_the_products_is_left_alone():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        gramian(with_least_cosine(3, 1))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.fixture
def _restore_precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("_restore_precision")
@pytest.mark.parametrize("shape", [(1, 1280, 400, 400), (10, 400, 128, 400), (2, 30, 43, 16)])
def test_highest_is_float32_by_whatever_library(shape):
    batch, rows, inner, columns = shape
    left, right = normals(batch, rows, inner), normals(batch, inner, columns, seed=1)
    exact = left.double() @ right.double()
    matmul.set_matmul_precision("highest", "cpu")
    error = (torch.bmm(left, right) - exact).norm() / exact.norm()
    assert error < 1e-6  # bfloat16 gives 2e-3, TF32 3e-4
    assert provenance(torch.device("cpu"))["float32_products"].startswith("float32")


@pytest.mark.usefixtures("_restore_precision")
@pytest.mark.parametrize(
    ("exact", "setting", "words"), [(True, "medium", "float32 (oneDNN)"), (False, "highest", "float32")]
)
def test_onednn_computes_only_where_it_is_exact(exact, setting, words, monkeypatch):
    monkeypatch.setattr(matmul, "_onednn_is_exact", lambda: exact)
    matmul.set_matmul_precision("highest", "cpu")
    assert torch.get_float32_matmul_precision() == setting
    assert provenance(torch.device("cpu"))["float32_products"] == words
    matmul.set_matmul_precision("highest", "cuda")
    assert torch.get_float32_matmul_precision() == "highest"
    assert provenance(torch.device("cpu"))["float32_products"] == "float32"


@pytest.mark.usefixtures("_restore_precision")
@pytest.mark.parametrize("default", [torch.float64, torch.float32])
def test_the_probes_of_products_are_of_float32_on_the_cpu(default, monkeypatch):
    seen, bmm = set(), torch.bmm

    def noted(left, right):
        seen.add((left.dtype, left.device.type))
        return bmm(left, right)

    monkeypatch.setattr(torch, "bmm", noted)
    matmul._is_exact_at.cache_clear()
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        with torch.device("meta"):
            assert matmul._is_exact_at("highest")
    finally:
        torch.set_default_dtype(before)
        matmul._is_exact_at.cache_clear()
    assert seen == {(torch.float32, "cpu")}
