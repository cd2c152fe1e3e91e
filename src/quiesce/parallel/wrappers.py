"""The model inside wrappers of torch, Lightning and timm, and names without the wrappers.

DDP, torch.compile, activation checkpointing, averages of weights and Lightning's Fabric put a
module around a model or a part of it. The names of torch then contain the attribute of the wrapper,
as in `_orig_mod.layer1.conv`. Names here are those of the model without wrappers, so patterns,
reports and saved states stay the same however a model is wrapped.
"""

import copy
from collections.abc import Iterator

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

_WRAPPERS = (DataParallel, DistributedDataParallel, AveragedModel)
_TIMM = "timm.utils.model_ema"
"""The module of timm's averages of weights."""
_INSIDE = ("_orig_mod", "_checkpoint_wrapped_module", "_forward_module")
"""Names that only torch.compile, torch's activation checkpointing and Fabric give to a module."""


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside all wrappers around it.

    The forward of DDP overwrites buffers, and that of a compiled model skips hooks.
    """
    while (inside := _inside(model)) is not None:
        model = inside
    return model


def without_wrappers(model: nn.Module) -> nn.Module:
    """Return the model without wrappers around it or around its parts.

    Returns:
        The model inside `model`, or a deep copy of it if parts of it are wrapped.
    """
    model = unwrapped(model)
    if any(_inside(module) is not None for module in model.modules()):
        model = copy.deepcopy(model)
        for _, module in list(named_modules(model)):
            for name, child in module._modules.items():
                module._modules[name] = None if child is None else unwrapped(child)
    return model


def named_modules(
    model: nn.Module, *, remove_duplicate: bool = True
) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules like `nn.Module.named_modules`, but without wrappers in modules and names.

    Args:
        model: Any model. The name of the model itself is "".
        remove_duplicate: Whether a module with several names is yielded once only.
    """
    yield from _named(model, "", set() if remove_duplicate else None)


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield each parameter once, with its name without wrappers."""
    seen: set[int] = set()
    for name, module in named_modules(model):
        for attribute, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"{name}.{attribute}" if name else attribute, parameter


def module_named(model: nn.Module, name: str) -> nn.Module:
    """Return the module that `named_modules` calls `name`.

    Raises:
        AttributeError: There is no such module.
    """
    model = unwrapped(model)
    for part in name.split(".") if name else []:
        model = unwrapped(model.get_submodule(part))
    return model


def _inside(model: nn.Module) -> nn.Module | None:
    if isinstance(model, _WRAPPERS) or any(c.__module__ == _TIMM for c in type(model).__mro__):
        return model._modules["module"]
    return next((model._modules[name] for name in _INSIDE if name in model._modules), None)


def _named(
    model: nn.Module, name: str, seen: set[nn.Module] | None
) -> Iterator[tuple[str, nn.Module]]:
    model = unwrapped(model)
    if seen is not None:
        if model in seen:
            return
        seen.add(model)
    yield name, model
    for child, module in model._modules.items():
        if module is not None:
            yield from _named(module, f"{name}.{child}" if name else child, seen)
