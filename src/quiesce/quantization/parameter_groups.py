"""Parameter groups for an optimizer, with separate weight decay and learning rate."""

from typing import Any

from torch import nn

from quiesce.quantization.prepare import quantized_weights, quantizer_parameters


def parameter_groups(
    model: nn.Module, weight_decay: float, *, scale_lr: float | None = None
) -> list[dict[str, Any]]:
    """Return the parameters of a prepared model in groups; only weights have weight decay.

        torch.optim.AdamW(parameter_groups(model, weight_decay=0.05), lr=1e-3)

    Scales and offsets form a separate group without weight decay, because decay would shrink the
    grid. Rules based on the number of dimensions (such as timm's) apply weight decay to per-channel
    scales, whose shape is (out, 1, 1, 1).

    Args:
        model: A prepared model.
        weight_decay: Weight decay of parameters with two or more dimensions. Biases and norms have
            none.
        scale_lr: Learning rate of scales and offsets, or None for that of the optimizer.

    Returns:
        Up to three groups: weights; biases and norms; scales and offsets. Parameters with
        requires_grad=False are omitted.

    Raises:
        NothingToDoError: The model is not prepared.
        ValueError: `weight_decay` is negative.

    Examples:
        >>> groups = qs.parameter_groups(layer, weight_decay=0.05, scale_lr=1e-4)
        >>> [(len(group["params"]), group["weight_decay"]) for group in groups]
        [(1, 0.05), (1, 0.0), (1, 0.0)]
    """
    if weight_decay < 0:
        raise ValueError(f"weight_decay must be 0 or more, got {weight_decay}")
    quantized_weights(model)  # raises if the model is not prepared
    scales = quantizer_parameters(model)
    apart = {id(scale) for scale in scales}
    others = [p for p in model.parameters() if id(p) not in apart]
    rate = {} if scale_lr is None else {"lr": scale_lr}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in others if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0},
        {"params": scales, "weight_decay": 0.0, **rate},
    ]
    for group in groups:
        group["params"] = [p for p in group["params"] if p.requires_grad]
    return [group for group in groups if group["params"]]
