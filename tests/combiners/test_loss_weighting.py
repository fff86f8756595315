"""The methods that keep a state or a random number, against plain references in float64 over 1,000 updates or more."""

import numpy as np
import pytest
import torch
from hard_matrices import make, oracle_jacobians

STEPS = 1000


def losses_in_time(num_tasks, low=0.1):
    """Losses [STEPS, K] that fall at unequal rates, with noise; `low` is their lower bound."""
    generator = torch.Generator().manual_seed(num_tasks)
    rates = torch.linspace(0.5, 3, num_tasks, dtype=torch.float64)
    time = torch.linspace(0, 1, STEPS, dtype=torch.float64).unsqueeze(1)
    noise = torch.rand(STEPS, num_tasks, generator=generator, dtype=torch.float64)
    return 10 * torch.exp(-rates * time) * (0.8 + 0.4 * noise) + low


@pytest.mark.parametrize("num_tasks", [2, 3, 10, 50])
def test_si_follows_the_mean_log_loss(num_tasks):
    combiner = make("si", num_tasks=num_tasks)
    for losses in losses_in_time(num_tasks):
        variable = losses.clone().requires_grad_()
        (expected,) = torch.autograd.grad(variable.log().mean(), variable)
        torch.testing.assert_close(combiner.weights(None, losses.unsqueeze(0))[0], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("num_tasks", [2, 3, 10, 50])
def test_rlw_draws_softmax_of_normal_numbers(num_tasks):
    combiner = make("rlw", seeds=[0, 7], num_tasks=num_tasks)
    draws = torch.stack([combiner.weights(None, torch.ones(2, num_tasks)) for _ in range(4 * STEPS)])
    torch.testing.assert_close(draws.sum(-1), torch.ones_like(draws[..., 0]))
    logs = draws.log()
    noise = logs - logs.mean(-1, keepdim=True)  # normal numbers less their mean: variance 1 - 1/K
    assert (noise.mean(0).abs() < 0.08).all()
    assert (noise.var(0) - (1 - 1 / num_tasks)).abs().max() < 0.1
    assert not torch.equal(draws[:, 0], draws[:, 1])


@pytest.mark.parametrize("num_tasks", [2, 3, 10, 50])
def test_dwa_weighs_by_the_fall_between_windows(num_tasks):
    window, temperature = 20, 2.0
    combiner = make("dwa", num_tasks=num_tasks, window=window, temperature=temperature)
    history = losses_in_time(num_tasks)
    for step, losses in enumerate(history):
        found = combiner.weights(None, losses.unsqueeze(0))[0]
        done = step // window
        expected = torch.full((num_tasks,), 1 / num_tasks, dtype=torch.float64)
        if done >= 2:
            means = history[: done * window].view(done, window, -1).mean(1)
            ratio = np.exp((means[-1] / means[-2] / temperature).numpy())
            expected = torch.from_numpy(ratio / ratio.sum())
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("num_tasks", [2, 3, 10, 50])
def test_uw_learns_variances_by_adam(num_tasks):
    combiner = make("uw", num_tasks=num_tasks)
    log_variance = torch.zeros(num_tasks, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([log_variance], lr=0.025)
    for losses in losses_in_time(num_tasks):
        variable = losses.clone().requires_grad_()
        optimizer.zero_grad()
        ((-log_variance).exp() * variable + log_variance).mean().backward()
        torch.testing.assert_close(combiner.weights(None, losses.unsqueeze(0))[0], variable.grad, rtol=1e-5, atol=0)
        optimizer.step()


@pytest.mark.parametrize("num_tasks", [2, 3, 10, 50])
def test_famo_follows_its_algorithm(num_tasks):
    combiner = make("famo", num_tasks=num_tasks)
    logits = torch.zeros(num_tasks, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.025, weight_decay=0.01)
    history = losses_in_time(num_tasks)
    for losses, after in zip(history, history.roll(-1, 0), strict=True):
        found = combiner.weights(None, losses.unsqueeze(0))[0]
        combiner.after_step(after.unsqueeze(0))
        shares = logits.detach().softmax(-1) / losses
        torch.testing.assert_close(found, shares / shares.sum(), rtol=1e-5, atol=0)
        optimizer.zero_grad()
        logits.softmax(-1).backward(losses.log() - after.log())
        optimizer.step()


@pytest.mark.parametrize("method", ["dwa", "famo", "si", "uw"])
def test_negative_losses_are_seen_from_a_lower_bound(method):
    """Weights stay positive and finite while losses fall far below 0, and a constant below 0 is like its bound."""
    combiner = make(method, num_tasks=2, **({"window": 5} if method == "dwa" else {}))
    for step in range(STEPS):
        losses = torch.tensor([[1.0 - 0.5 * step, 3.0]], dtype=torch.float64)
        weights = combiner.weights(None, losses)
        if combiner.looks_back:
            combiner.after_step(losses - 0.5)
        assert (weights > 0).all()
        assert weights.isfinite().all()
        assert combiner.state["lowest"][0].tolist() == [min(0.0, 1.0 - 0.5 * step), 0.0]
    if method == "si":
        torch.testing.assert_close(weights, 1 / (2 * torch.tensor([[498.5, 3.0]], dtype=torch.float64)))


@pytest.mark.parametrize("num_tasks", [2, 3, 10, 50])
@pytest.mark.parametrize("leak", [0.0, 0.3])
def test_graddrop_keeps_one_sign_a_parameter(num_tasks, leak):
    """Algorithm 1 in loops, on 250 Jacobians per size."""
    jacobian = oracle_jacobians(num_tasks)
    combiner, twin = (make("graddrop", range(250), num_tasks, leak=leak) for _ in range(2))
    direction = combiner.direction(jacobian, torch.ones(250, num_tasks))
    drawn = twin._streams.uniform_(torch.empty(250, jacobian.shape[2], dtype=torch.float64)).numpy()
    for rows, uniform, found in zip(jacobian.numpy(), drawn, direction.numpy(), strict=True):
        purity = 0.5 * (1 + rows.sum(0) / np.abs(rows).sum(0))
        kept = ((purity > uniform) & (rows > 0)) | ((purity < uniform) & (rows < 0))
        expected = ((leak + (1 - leak) * kept) * rows).sum(0) / num_tasks
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12 * np.abs(rows).max())


def test_graddrop_is_the_mean_where_nothing_conflicts():
    jacobian = torch.rand(2, 4, 200_000, generator=torch.Generator().manual_seed(0))
    combiner = make("graddrop", [0, 1], 4)
    torch.testing.assert_close(combiner.direction(jacobian, torch.ones(2, 4)), jacobian.mean(1))
    torch.testing.assert_close(combiner.diagnostics["cosine"], torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("alpha", [0.0, 1.5])
@pytest.mark.parametrize("num_tasks", [2, 3, 10])
def test_gradnorm_follows_algorithm_one(num_tasks, alpha):
    """Autograd through Σ |w_i ‖g_i‖ - target_i| with the targets constant, Adam, and weights that sum to K."""
    combiner = make("gradnorm", num_tasks=num_tasks, alpha=alpha)
    weights = torch.ones(num_tasks, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.025)
    jacobians = oracle_jacobians(num_tasks)
    first = None
    for losses, jacobian in zip(losses_in_time(num_tasks), jacobians[:STEPS], strict=False):
        first = losses if first is None else first
        found = combiner.weights((jacobian @ jacobian.mT).unsqueeze(0), losses.unsqueeze(0))[0]
        torch.testing.assert_close(found, weights.detach() / num_tasks, rtol=1e-6, atol=0)
        weighted = weights * jacobian.norm(dim=-1)
        rate = (losses / first) / (losses / first).mean()
        optimizer.zero_grad()
        (weighted - (weighted.mean() * rate**alpha).detach()).abs().sum().backward()
        optimizer.step()
        with torch.no_grad():
            weights.clamp_(min=1e-3)
            weights *= num_tasks / weights.sum()
