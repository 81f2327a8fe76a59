"""Theory against networks that are trained here, in NumPy, step by step from the definition of the model (DL.1)."""

import numpy as np
import pytest

from foretrain import DeepLinear, GradientDescent, Isotropic, Momentum, OnePassSGD, Problem, SpectrumTask, solve

INF = float("inf")


def trained(problem, inputs, steps, seed):
    """Test and train loss of one network before every step; only definitions, no theory."""
    rng = np.random.default_rng(seed)
    model, protocol, task = problem.model, problem.training, problem.task
    spectrum = task.spectrum()
    lam = np.repeat(spectrum.eigenvalues, inputs // len(spectrum.eigenvalues))
    power = spectrum.target_power * (1.0 if isinstance(task, SpectrumTask) else spectrum.modes)
    target = rng.standard_normal((len(power), inputs // len(power)))
    target = (target / np.sqrt(np.mean(target**2, 1, keepdims=True)) * np.sqrt(power)[:, None]).ravel()
    width, depth = round(model.width_ratio * inputs), int(model.depth)
    gamma = model.richness / (np.sqrt(model.width_ratio) if model.parameterization == "ntk" else 1.0)
    skip, b = 0.0, 1.0
    if model.residual:
        skip, b = (
            1.0,
            (model.branch_scale or 1.0) * depth ** -(0.5 if model.depth_exponent is None else model.depth_exponent),
        )
    first = rng.standard_normal((width, inputs))
    hidden = [rng.standard_normal((width, width)) for _ in range(depth - 1)]
    readout = rng.standard_normal(width)
    velocity = [np.zeros_like(part) for part in (first, *hidden, readout)]
    beta = getattr(protocol, "momentum", 0.0)
    sigma = np.sqrt(task.noise)

    def draw(samples):
        x = rng.standard_normal((samples, inputs)) * np.sqrt(lam)
        return x, sigma * rng.standard_normal(samples)

    ratio = getattr(protocol, "sample_ratio", None) or INF
    fixed = None if np.isinf(ratio) else draw(round(ratio * inputs))
    losses = []
    for _ in range(steps + 1):
        back = [readout]
        for weight in reversed(hidden):
            back.insert(0, skip * back[0] + b * weight.T @ back[0] / np.sqrt(width))
        v = target - np.sqrt(inputs) / (gamma * width) * first.T @ back[0]
        test = np.mean(lam * v**2)
        data = draw(round(protocol.batch_ratio * inputs)) if isinstance(protocol, OnePassSGD) else fixed
        if data is None:
            u, train = lam * v, test + sigma**2
        else:
            x, noise = data
            errors = x @ v / np.sqrt(inputs) + noise
            u = np.sqrt(inputs) / len(errors) * x.T @ errors
            train = test + sigma**2 if isinstance(protocol, OnePassSGD) else np.mean(errors**2)
        losses.append((test, train))
        forward = [first @ u / np.sqrt(inputs)]
        for weight in hidden:
            forward.append(skip * forward[-1] + b * weight @ forward[-1] / np.sqrt(width))
        rate = protocol.learning_rate * gamma
        moves = [rate / np.sqrt(inputs) * np.outer(back[0], u)]
        moves += [b * rate / np.sqrt(width) * np.outer(g, h) for g, h in zip(back[1:], forward[:-1], strict=True)]
        moves += [rate * forward[-1]]
        velocity = [beta * old + move for old, move in zip(velocity, moves, strict=True)]
        first, readout = first + velocity[0], readout + velocity[-1]
        hidden = [weight + move for weight, move in zip(hidden, velocity[1:-1], strict=True)]
    return np.array(losses)


CASES = {
    "mup": Problem(Isotropic(), DeepLinear(depth=2, width_ratio=0.5, richness=2.0), GradientDescent(0.04)),
    "ntk, reused": Problem(
        Isotropic(noise=0.25),
        DeepLinear(depth=2, width_ratio=2.0, richness=1.5, parameterization="ntk"),
        GradientDescent(0.05, sample_ratio=1.5),
    ),
    "three layers": Problem(
        Isotropic(noise=0.09),
        DeepLinear(depth=3, width_ratio=0.5, richness=0.7),
        GradientDescent(0.03, sample_ratio=1.0),
    ),
    "one pass": Problem(Isotropic(noise=0.04), DeepLinear(depth=2, width_ratio=1.0), OnePassSGD(0.05, batch_ratio=0.5)),
    "two groups": Problem(
        SpectrumTask([1.6, 0.4], [1.0, 0.8], noise=0.09),
        DeepLinear(depth=2, width_ratio=1.0),
        GradientDescent(0.05, sample_ratio=1.5),
    ),
    "residual": Problem(
        Isotropic(),
        DeepLinear(depth=4, width_ratio=1.0, richness=1.3, residual=True, branch_scale=0.8),
        GradientDescent(0.04),
    ),
    "heavy ball": Problem(
        Isotropic(noise=0.1), DeepLinear(depth=1, width_ratio=1.5, richness=1.4), Momentum(0.02, 0.6, sample_ratio=2.0)
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_theory_is_the_mean_of_networks(case):
    problem, steps = CASES[case], 20
    theory = solve(problem, list(range(steps + 1)))
    runs = np.stack([trained(problem, 240, steps, seed) for seed in range(24)])
    mean, error = runs.mean(0), runs.std(0, ddof=1) / np.sqrt(len(runs))
    for i, name in enumerate(("test_loss", "train_loss")):
        z = (mean[:, i] - theory.values(name)) / error[:, i]
        assert np.max(np.abs(z)) < 4, f"{name}: {np.round(z, 1)}"
