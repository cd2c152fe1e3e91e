"""Learns which of its two codes each oscillating weight should have, from the loss of the task.

A variable v of each weight gives h = clip(sigmoid(v) * (zeta - gamma) + gamma, 0, 1), and the
network computes with the code lower + h. Adam optimizes v. A regularization, the mean of 1 - |2h -
1|^beta with a falling beta, drives h to 0 or 1. Nothing else changes.

Source: the relaxation of Nagel et al., Up or Down? Adaptive Rounding for Post-Training
Quantization, ICML 2020, arXiv:2004.10568, with the loss of the task instead of the layer-wise
error, as in table 3 of Nagel et al., ICML 2022, arXiv:2203.11086.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quiesce.diagnosis.choices import Choice, oscillating_choices, replaced
from quiesce.inference import Batch, Forward, call_on_batch, inference, label_of
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.parallel.processes import total, world_size
from quiesce.schedules import cosine

ZETA, GAMMA = 1.1, -0.1
"""Stretch the sigmoid, so that h reaches 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class LearningOptions:
    """Options of the optimization."""

    lr: float = 0.1
    """Learning rate of Adam, above 0."""
    strength: float = 0.1
    """Factor of the regularization in the loss."""
    begin: float = 0.2
    """Share of the steps before the regularization starts, 0 to below 1."""
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
    """Return the learned codes of `choices`: integral floats (K,) for each.

    The model runs in inference mode. Afterwards it is as before, including gradients. Several
    processes average their gradients, so all learn the same codes.

    Args:
        model: The prepared model.
        choices: At least one choice, of weights of the model.
        batches: At least `steps` batches, each an input and its label (see `quiesce.inference`), on
            the device of the model.
        loss: Function from the output of the model and the label to a scalar.
        steps: Optimizer steps, at least 1.
        forward: Function of the model and a batch that replaces the call; the label is still the
            second entry of the batch.
        options: Options of the optimization.

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
            gradients = torch.cat(torch.autograd.grad(cost, variables))
            averaged = (total(gradients) / world_size()).split([len(v) for v in variables])
            for variable, gradient in zip(variables, averaged, strict=True):
                variable.grad = gradient
            optimizer.step()
    if done < steps:
        raise ValueError(f"{steps} steps need as many batches, got {done}")
    return [
        choice.lower + (relaxed(v.detach()) > 0.5).to(choice.lower.dtype)
        for choice, v in zip(choices, variables, strict=True)
    ]


def learn_codes(
    model: nn.Module,
    tracker: OscillationTracker,
    batches: Iterable[Batch],
    loss: Callable[[Any, Any], Tensor],
    *,
    steps: int = 300,
    forward: Forward | None = None,
    max_bits: int = 4,
) -> dict[str, int]:
    """Learn the codes of all oscillating weights after training, and freeze the weights.

    The tracker must follow average codes: attach `quiesce.Freezing`, or call
    `tracker.follow_average(weights)` before the first step.

    Args:
        model: The prepared model. Its batch-norm statistics should be population statistics.
        tracker: The tracker after the last step.
        batches: See `learn`.
        loss: See `learn`.
        steps: Optimizer steps, at least 1.
        forward: See `learn`.
        max_bits: Weights with more bits are left as they are.

    Returns:
        Numbers of "weights" and of those whose code "changed".

    Raises:
        TrackingError: The tracker does not follow the average codes of a layer.
        ValueError: As `learn`.
    """
    choices = oscillating_choices(tracker, max_bits=max_bits)
    if not choices:
        return {"weights": 0, "changed": 0}
    changed = 0
    codes = learn(model, choices, batches, loss, steps=steps, forward=forward)
    for choice, learned in zip(choices, codes, strict=True):
        changed += int((learned != choice.now).sum())
        where = torch.zeros_like(choice.weight.latent, dtype=torch.bool).flatten()
        where[choice.index] = True
        full = choice.weight.codes().flatten()
        full[choice.index] = learned.to(full.dtype)
        shape = choice.weight.latent.shape
        choice.weight.freeze(where.view(shape), full.view(shape))
    return {"weights": sum(len(choice.index) for choice in choices), "changed": changed}


def relaxed(v: Tensor) -> Tensor:
    """Return h for v: the stretched sigmoid, clipped to [0, 1]."""
    return (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def inverse(h: Tensor) -> Tensor:
    """Return v for h in [0, 1]."""
    return torch.logit((h - GAMMA) / (ZETA - GAMMA))


def pull(h: Tensor, beta: float) -> Tensor:
    """Return the mean of 1 - |2h - 1|^beta, which is 0 if every h is 0 or 1."""
    return (1 - (2 * h - 1).abs() ** beta).mean()
