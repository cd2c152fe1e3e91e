"""Disable the fused inference paths of torch's encoder modules, which use float weights.

`nn.TransformerEncoderLayer` has a fused path for inference without gradients. This path reads the
`weight` of the linear layers without calling them, so it bypasses their quantizers and computes
with the latent weights. torch takes this path only if no module inside has a forward hook, so a
hook that does nothing disables it. `nn.TransformerEncoder` passes nested tensors to its layers if
its attribute `use_nested_tensor` is True. Only the fused path supports nested tensors.

`nn.MultiheadAttention` has a fused path too. Both its paths read `out_proj.weight` directly, so
`prepare` never quantizes this layer.
"""

from typing import Any

from torch import nn

from quiesce.quantization.quantized_layers import QuantizedLayer


class _CallsItsLayers:
    """Forward pre-hook that does nothing; its presence makes torch call the layers.

    Args:
        use_nested_tensor: Original value of the attribute, or None if the module is not an
            `nn.TransformerEncoder`.
    """

    def __init__(self, use_nested_tensor: bool | None) -> None:
        self.use_nested_tensor = use_nested_tensor

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Do nothing."""


def switch_off_fused_paths(model: nn.Module) -> None:
    """Make encoder modules with quantized layers call these layers in inference too."""
    for module in model.modules():
        if not isinstance(module, nn.TransformerEncoderLayer | nn.TransformerEncoder):
            continue
        if any(isinstance(each, QuantizedLayer) for each in module.modules()):
            nested = getattr(module, "use_nested_tensor", None)
            module.register_forward_pre_hook(_CallsItsLayers(nested))
            if nested is not None:
                module.use_nested_tensor = False  # pyright: ignore[reportArgumentType]


def restore_fused_paths(model: nn.Module) -> None:
    """Undo `switch_off_fused_paths`."""
    for module in model.modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, _CallsItsLayers):
                del module._forward_pre_hooks[key]
                if hook.use_nested_tensor is not None:
                    nested = hook.use_nested_tensor
                    module.use_nested_tensor = nested  # pyright: ignore[reportArgumentType]
