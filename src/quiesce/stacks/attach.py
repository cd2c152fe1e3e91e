"""`quiesce.attach`: the quantized weights of a network that another toolkit has prepared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from importlib import import_module

from torch import nn

from quiesce.errors import AttachError, NothingToDoError
from quiesce.inference import Input, arguments_of, inference
from quiesce.parallel.split_weights import is_split
from quiesce.parallel.wrappers import named_modules, unwrapped
from quiesce.quantization.prepare import quantized_weights
from quiesce.quantization.quantized_weight import QuantizedWeight
from quiesce.stacks.adapter import Adapter
from quiesce.stacks.attached import Attached
from quiesce.stacks.attached_weight import AttachedWeight
from quiesce.stacks.catalog import STACKS, Stack
from quiesce.stacks.site import Site


def attach(
    model: nn.Module,
    example_input: Input | None = None,
    *,
    exclude: Sequence[str] = (),
    adapter: Adapter | None = None,
) -> Attached:
    """Return the quantized weights of a network prepared by another toolkit, or by quiesce.

    Tracker, cures, `Control`, `record` and diagnosis take them like those of `quantized_weights`.
    Call this after the toolkit has prepared and calibrated the network, after a state was loaded,
    and before torch.compile and the first training step. `quiesce stacks` lists the toolkits.

    Args:
        model: The prepared network; its forward passes get hooks, which change nothing until a
            weight is frozen.
        example_input: An input. If given, the network runs once in inference mode, which
            initialises scales that the toolkit sets in its first forward pass.
        exclude: Shell patterns for names of layers to leave alone.
        adapter: Functions that find and read the weights of a toolkit that is not listed.

    Returns:
        A list of weights, in the order of the modules.

    Raises:
        NothingToDoError: No weight is quantized.
        AttachError: A quantizer is of an unsupported kind or not ready, a weight is shared or split
            over processes, weights are frozen from an earlier call, or the version of the toolkit
            is outside its tested range.
        NotCalibratedError: A scale has no value yet.

    Examples:
        >>> weights = qs.attach(layer)  # also layers of Brevitas, torchao, ModelOpt and AIMET
        >>> tracker = qs.OscillationTracker(weights)
        >>> [weight.grid.bits for weight in weights]
        [3]
    """
    model = unwrapped(model)
    if example_input is not None:
        args, kwargs = arguments_of(example_input)
        with inference(model):
            model(*args, **kwargs)

    def wanted(name: str) -> bool:
        return not any(fnmatchcase(name, pattern) for pattern in exclude)

    sites = [site for stack in STACKS for site in _sites(stack, model, wanted)]
    sites += [] if adapter is None else adapter.sites(model, wanted)
    _check_weights(sites)
    weights = [weight for weight in _own_weights(model) if wanted(weight.name)]
    weights += [AttachedWeight(site) for site in sites]
    if not weights:
        known = ", ".join(dict.fromkeys(stack.name for stack in STACKS))
        raise NothingToDoError(
            f"{type(model).__name__} has no quantized weight; call quiesce.prepare first, or "
            f"prepare it with {known}, or give quiesce.attach an adapter for another toolkit"
        )
    order = {name: i for i, (name, _) in enumerate(named_modules(model))}
    return Attached(sorted(weights, key=lambda weight: order.get(weight.name, len(order))))


def _sites(stack: Stack, model: nn.Module, wanted: Callable[[str], bool]) -> Iterator[Site]:
    if not any(stack.made(module) for module in model.modules()):
        return
    if not stack.is_tested:
        low, high = stack.tested
        raise AttachError(
            f"{stack.name}: {stack.package} {stack.installed} is installed, and quiesce is tested "
            f"with {low} to before {high}; pip install '{stack.package}>={low},<{high}'"
        )
    yield from import_module(stack.file).sites(model, wanted)


def _own_weights(model: nn.Module) -> list[QuantizedWeight]:
    try:
        return quantized_weights(model)
    except NothingToDoError:
        return []


def _check_weights(sites: Sequence[Site]) -> None:
    owners: dict[int, str] = {}
    for site in sites:
        latent = site.latent
        if is_split(latent):
            raise AttachError(
                f"{site.name}: its weight is split over processes, which quiesce supports only for "
                "its own layers (quiesce.prepare); train with DDP"
            )
        if id(latent) in owners:
            raise AttachError(
                f"{site.name} and {owners[id(latent)]} share a weight but not its quantizer; leave "
                f"one out: quiesce.attach(model, exclude=['{site.name}'])"
            )
        owners[id(latent)] = site.name
