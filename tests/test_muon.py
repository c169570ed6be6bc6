"""Muon: the orthogonalised update against the singular value decomposition, and a step by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.muon import COEFFICIENTS, UPDATE_RMS, Muon, orthogonalized


def by_svd(matrix):
    """The iteration's polynomial, three times, on the singular values; the vectors stay."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.norm()
    a, b, c = COEFFICIENTS
    for _ in range(3):
        s = a * s + b * s**3 + c * s**5
    return UPDATE_RMS * max(matrix.shape) ** 0.5 * (u * s) @ v


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
def test_singular_values_take_the_polynomials_value(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    assert torch.allclose(orthogonalized(matrix), by_svd(matrix), atol=1e-9)


def test_float32_is_precise_enough():
    matrix = torch.randn(64, 576, generator=torch.Generator().manual_seed(0))
    expected = by_svd(matrix.double())
    assert (orthogonalized(matrix) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_the_update_has_the_stated_size_whatever_the_gradients():
    matrix = torch.randn(32, 288, generator=torch.Generator().manual_seed(1))
    sizes = [orthogonalized(scale * matrix).square().mean().sqrt().item() for scale in (1e-6, 1.0, 1e6)]
    assert sizes == pytest.approx([UPDATE_RMS] * 3, rel=0.3)  # the singular values end between 0.7 and 1.2
    assert sizes == pytest.approx([sizes[0]] * 3, rel=1e-3)


def test_no_gradient_moves_nothing():
    assert torch.equal(orthogonalized(torch.zeros(3, 5)), torch.zeros(3, 5))


def optimized(parameter, gradients, **group):
    """The parameter after a step for each gradient, with a learning rate of 0.1 and a momentum of 0.5."""
    optimizer = Muon([{"params": [parameter], **group}], 0.1, 0.5)
    for gradient in gradients:
        parameter.grad = gradient
        optimizer.step()
    return parameter.detach()


def test_biases_follow_nesterovs_sgd_by_hand():
    # Buffers 1 and 0.5 * 1 + 2 = 2.5; updates 1 + 0.5 * 1 = 1.5 and 2 + 0.5 * 2.5 = 3.25; 0.1 of each.
    after = optimized(torch.nn.Parameter(torch.tensor([1.0])), [torch.tensor([1.0]), torch.tensor([2.0])])
    assert after.item() == pytest.approx(1 - 0.15 - 0.325)


@pytest.mark.parametrize("shape", [(5,), (4, 6), (8, 3, 3, 3)], ids=["bias", "fully connected", "first convolution"])
def test_other_parameters_equal_torchs_sgd(shape):
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(shape, generator=generator)
    gradients = [torch.randn(shape, generator=generator) for _ in range(3)]
    reference = torch.nn.Parameter(start.clone())
    sgd = torch.optim.SGD([reference], 0.1, 0.5, nesterov=True)
    for gradient in gradients:
        reference.grad = gradient
        sgd.step()
    ours = optimized(torch.nn.Parameter(start.clone()), gradients)
    assert torch.allclose(ours, reference.detach(), atol=1e-6)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_hidden_convolution_takes_the_orthogonalised_update(memory_format):
    generator = torch.Generator().manual_seed(3)
    start, gradient = torch.randn(2, 8, 4, 3, 3, generator=generator)
    parameter = torch.nn.Parameter(start.clone().to(memory_format=memory_format))
    after = optimized(parameter, [gradient.to(memory_format=memory_format)])
    expected = start - 0.1 * by_svd(1.5 * gradient.reshape(8, 36)).view(8, 4, 3, 3)
    assert torch.allclose(after, expected, atol=1e-5)


def test_weight_decay_is_decoupled():
    after = optimized(torch.nn.Parameter(torch.tensor([2.0])), [torch.tensor([1.0])], weight_decay=0.5)
    assert after.item() == pytest.approx(2 * (1 - 0.1 * 0.5) - 0.15)


def test_it_agrees_with_torchs_own_where_that_can_be_used():
    """torch.optim.Muon takes matrices, in bf16: the directions agree to within its precision."""
    generator = torch.Generator().manual_seed(4)
    gradient = torch.randn(24, 40, generator=generator)
    reference = torch.nn.Parameter(torch.zeros(24, 40))
    reference.grad = gradient.clone()
    torch.optim.Muon([reference], lr=1.0, weight_decay=0, momentum=0.5, ns_steps=3).step()
    cosine = torch.cosine_similarity(-reference.detach().flatten(), orthogonalized(gradient).flatten(), dim=0)
    assert cosine > 0.999


def test_a_tiny_gradient_gives_a_whole_update():
    """The squares of such numbers underflow, and so would their norm."""
    gradient = torch.randn(8, 12, generator=torch.Generator().manual_seed(5))
    expected = orthogonalized(gradient)
    for scale in (1e-25, 1e-36):
        assert torch.allclose(orthogonalized(gradient * scale), expected, atol=1e-5)
    assert not orthogonalized(0 * gradient).any()
