"""The optimizers of weights and scales, joined into one.

Weights and scales need different optimizers; the published recipes use SGD for weights and Adam for
scales. Automatic optimization, gradient clipping, a `GradScaler` and hooks on the step expect a
single optimizer, which `JoinedOptimizer` provides.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import Parameter
from torch.optim import Optimizer

from quiesce.quantization.prepare import quantizer_parameters
from quiesce.recipes.sections import OptimizerConfig


class JoinedOptimizer(Optimizer):
    """Several optimizers over different parameters, stepped together.

    The members share its `param_groups` and its `state`, so learning-rate schedules, clipping,
    moving to a device, saving and loading work as with any optimizer of torch. Hooks on its step
    are called once for all members.

    Args:
        members: Optimizers that share no parameter, at least one.

    Raises:
        ValueError: No member, or a parameter in two of them.
    """

    def __init__(self, members: Iterable[Optimizer]) -> None:
        self.members = list(members)
        if not self.members:
            raise ValueError("`members` must hold at least one optimizer, got none")
        groups = [group for member in self.members for group in member.param_groups]
        super().__init__(groups, defaults={})
        for member in self.members:
            self.state.update(member.state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Step every member once; `closure` is evaluated once, before them."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for member in self.members:
            member.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a result of `state_dict` from a joined optimizer with the same members."""
        super().load_state_dict(state_dict)  # makes new group dicts and a new state
        self._share()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Raise a ValueError: it is unclear which member the group would belong to."""
        if hasattr(self, "_shared"):
            raise ValueError("add the group to a member before the members are joined")
        super().add_param_group(param_group)

    def _share(self) -> None:
        """Give the members this optimizer's groups and state, which they read and write."""
        self._shared = True
        groups = iter(self.param_groups)
        for member in self.members:
            member.param_groups = [next(groups) for _ in member.param_groups]
            member.state = self.state


def joined_optimizer(
    network: nn.Module, weights: OptimizerConfig, scales: OptimizerConfig
) -> JoinedOptimizer:
    """Return the optimizer of a prepared network: one rule for its weights, one for its scales.

    Args:
        network: A prepared network; all of its parameters are optimized.
        weights: Optimizer of weights, biases and batch norm.
        scales: Optimizer of scales and learned offsets.
    """
    apart = quantizer_parameters(network)
    known = set(map(id, apart))
    others = [each for each in network.parameters() if id(each) not in known]
    return JoinedOptimizer([make_optimizer(others, weights), make_optimizer(apart, scales)])


def make_optimizer(parameters: Iterable[Parameter], config: OptimizerConfig) -> Optimizer:
    """Return the torch.optim optimizer that `config` describes, over `parameters`."""
    if config.kind == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
        )
    kind = torch.optim.Adam if config.kind == "adam" else torch.optim.AdamW
    betas = (config.momentum, 0.999)
    return kind(parameters, lr=config.lr, betas=betas, weight_decay=config.weight_decay)
