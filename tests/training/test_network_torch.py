"""The same training written in PyTorch, from the same weights and batches."""

import jax
import numpy as np
import pytest

from foretrain.problems import MLP, NetworkTraining, Problem
from foretrain.tasks import Digits
from foretrain.training import run_network
from foretrain.training._network import build_network
from foretrain.training._network_data import network_data

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(("optimizer", "rate"), [("momentum", 0.1), ("adam", 0.003)])
@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_the_same_curve_in_pytorch(optimizer, rate, loss):
    """At its base the network is a standard one: plain SGD with momentum and plain Adam train it."""
    training = NetworkTraining(learning_rate=rate, optimizer=optimizer, batch_size=32, samples=1000, loss=loss)
    problem = Problem(Digits(), MLP(width=32, base_width=32, bias=True), training)
    times = [0, 1, 10, 50]
    runs = run_network(problem, times, seeds=[0])
    data = network_data(problem)
    network, _ = build_network(problem.model, training, 64, 10, key=jax.random.key(0))
    layers = [torch.nn.Linear(*sizes) for sizes in ((64, 32), (32, 32), (32, 10))]
    middle = network.middle
    starts = [(network.first.weight, network.first.bias), (middle.weight[0], middle.bias[0])]
    starts.append((network.last.weight, network.last.bias))
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, starts, strict=True):
            layer.weight.copy_(torch.tensor(np.asarray(weight)))
            layer.bias.copy_(torch.tensor(np.asarray(bias)))
    model = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
    step = {"momentum": lambda p: torch.optim.SGD(p, rate, momentum=0.9), "adam": lambda p: torch.optim.Adam(p, rate)}
    trainer = step[optimizer](model.parameters())
    inputs = torch.tensor(data.inputs, dtype=torch.float32)
    targets = torch.tensor(data.targets, dtype=torch.float32 if loss == "mse" else torch.int64)

    def reported(rows):
        outputs = model(inputs[rows])
        if loss == "mse":
            return ((targets[rows] - outputs) ** 2).sum(dim=1).mean()
        return torch.nn.functional.cross_entropy(outputs, targets[rows])

    train, test = (torch.tensor(rows) for rows in data.evaluated(0))
    batches = data.batches(0, 32, False, 0, 50)
    found = []
    for number in range(51):
        if number in times:
            with torch.no_grad():
                found.append([float(reported(train)), float(reported(test))])
        if number < 50:
            trainer.zero_grad()
            objective = reported(torch.tensor(batches[number]))
            (objective / 2 if loss == "mse" else objective).backward()
            trainer.step()
    expected = np.array(found).T
    # Rounding of float32 over fifty steps of two libraries.
    np.testing.assert_allclose(runs.train_loss[0, 0], expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(runs.test_loss[0, 0], expected[1], rtol=1e-5, atol=1e-5)
    assert expected[0, -1] < 0.7 * expected[0, 0]
