"""The moving average of weights."""

import torch

from training import runtime


def test_an_ema_follows_weights_by_name_whatever_their_order() -> None:
    net = torch.nn.Linear(3, 2)
    ema = runtime.EMA(net, 0.0)
    ema.weights = {key: torch.zeros_like(value) for key, value in sorted(net.state_dict().items())}
    assert list(ema.weights) != list(net.state_dict())  # as weights that come from a file
    ema.updates = 10**9
    ema.update(net)
    assert all(torch.equal(ema.weights[key], value) for key, value in net.state_dict().items())
