"""Learn which of its two codes each oscillating weight should take, by the loss of the task.

A variable v for each weight says how far up it is, h = clip(sigmoid(v) * (zeta - gamma) + gamma,
0, 1), and the network computes with lower + h. Adam moves v along the gradient of the loss, and a
pull, the mean of 1 - |2h - 1|^beta, brings h to 0 or 1 in the end: beta falls, and the pull with
a large beta leaves the middle alone. Everything but v is held.

Source: the relaxation of Nagel et al., Up or Down? Adaptive Rounding for Post-Training
Quantization, ICML 2020, arXiv:2004.10568, here with the loss of the task in place of the layer-wise
error; so used in table 3 of Nagel et al., ICML 2022, arXiv:2203.11086.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quiesce.diagnosis.choices import Choice, replaced
from quiesce.inference import Batch, Forward, call_on_batch, inference, label_of
from quiesce.schedules import cosine

ZETA, GAMMA = 1.1, -0.1
"""How far the sigmoid is stretched, so that h reaches 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class LearningOptions:
    """How the codes are learned."""

    lr: float = 0.1
    """Adam's learning rate for v, above 0."""
    strength: float = 0.1
    """Factor of the pull, the mean over all weights, in the loss."""
    begin: float = 0.2
    """Share of the steps before the pull begins, 0 to below 1."""
    betas: tuple[float, float] = (20.0, 2.0)
    """First and last beta."""

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"`lr` must be above 0, got {self.lr}")
        if not 0 <= self.begin < 1:
            raise ValueError(f"`begin` must be 0 to below 1, got {self.begin}")


def learn(
    model: nn.Module,
    choices: Sequence[Choice],
    batches: Iterable[Batch],
    loss: Callable[[Any, Any], Tensor],
    *,
    steps: int,
    forward: Forward | None = None,
    options: LearningOptions = LearningOptions(),
) -> list[Tensor]:
    """Return the learned codes of `choices`: for each integral floats of shape (K,).

    The model is run in inference mode and comes back as it was, gradients included.

    Args:
        model: Prepared; `choices` are of its weights.
        choices: At least one.
        batches: At least `steps` of them: inputs and their labels, see `quiesce.inference`, on the
            device of the model.
        loss: From what the model returns and the label to a scalar.
        steps: Optimizer steps of v, at least 1.
        forward: Called with the model and a batch instead; the label stays the second entry.
        options: See there.

    Raises:
        ValueError: `steps` is below 1, or there are fewer batches.
    """
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}")
    variables = [inverse(choice.probability).requires_grad_() for choice in choices]
    optimizer = torch.optim.Adam(variables, lr=options.lr)
    beta = cosine(*options.betas, total=steps, begin=options.begin)
    done = 0
    with inference(model), torch.enable_grad():
        for done, batch in zip(range(1, steps + 1), batches, strict=False):
            ups = [relaxed(v) for v in variables]
            codes = [choice.lower + up for choice, up in zip(choices, ups, strict=True)]
            with replaced(choices, codes):
                cost = loss(call_on_batch(model, batch, forward), label_of(batch))
            if done > options.begin * steps:
                cost = cost + options.strength * pull(torch.cat(ups), beta(done))
            gradients = torch.autograd.grad(cost, variables)
            for variable, gradient in zip(variables, gradients, strict=True):
                variable.grad = gradient
            optimizer.step()
    if done < steps:
        raise ValueError(f"{steps} steps need as many batches, got {done}")
    return [
        choice.lower + (relaxed(v.detach()) > 0.5).to(choice.lower.dtype)
        for choice, v in zip(choices, variables, strict=True)
    ]


def relaxed(v: Tensor) -> Tensor:
    """Return h of v: the stretched sigmoid, clipped to 0 to 1."""
    return (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def inverse(h: Tensor) -> Tensor:
    """Return a v with relaxed(v) = h, for h from 0 to 1."""
    return torch.logit((h - GAMMA) / (ZETA - GAMMA))


def pull(h: Tensor, beta: float) -> Tensor:
    """Return the mean of 1 - |2h - 1|^beta: 0 where every h is 0 or 1."""
    return (1 - (2 * h - 1).abs() ** beta).mean()
