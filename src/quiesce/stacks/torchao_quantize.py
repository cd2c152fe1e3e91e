"""torchao: linear and embedding layers prepared by `quantize_` with a `QATConfig`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchao.quantization.qat.fake_quantizer import (  # pyright: ignore[reportMissingImports]
    FakeQuantizerBase,
    IntxFakeQuantizer,
)
from torchao.quantization.quant_primitives import (  # pyright: ignore[reportMissingImports]
    _DTYPE_TO_QVALUE_BOUNDS,
    ZeroPointDomain,
)

from quiesce.arithmetic.grid import Grid
from quiesce.errors import AttachError, NotCalibratedError
from quiesce.parallel.wrappers import module_named, named_modules
from quiesce.stacks.site import Change, Reading, Site, codes_of, over_blocks


def sites(model: nn.Module, wanted: Callable[[str], bool]) -> Iterator[Site]:
    """Yield the weights whose fake quantizer is enabled.

    Raises:
        AttachError: A layer has a fake quantizer of another kind.
        NotCalibratedError: A fixed or learned scale has no value yet.
    """
    for name, module in named_modules(model):
        fake: Any = getattr(module, "weight_fake_quantizer", None)
        prototype = type(module).__module__.startswith("torchao.prototype.qat")
        if not wanted(name) or not (isinstance(fake, FakeQuantizerBase) or prototype):
            continue
        if not isinstance(fake, IntxFakeQuantizer):
            kind = type(module if fake is None else fake).__name__
            raise AttachError(
                f"{name}: quiesce does not follow {kind} of torchao, only IntxFakeQuantizer; leave "
                f"it out: quiesce.attach(model, exclude=['{name}'])"
            )
        if fake.enabled:
            _check(name, fake)
            yield TorchaoWeight(name, module)


class TorchaoWeight(Site):
    """One weight of torchao: its scale is dynamic (from the weight), fixed, or learned.

    Conversion passes only learned scales on. It then computes others again, which changes codes.
    """

    module: Any

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__(name, module)
        self.follows_weight = bool(self._fake.config.is_dynamic)
        if not (self.follows_weight or self._fake.config.range_learning):
            self.why_another_scale = "the conversion drops fixed scales"

    @property
    def _fake(self) -> Any:
        return self.module.weight_fake_quantizer

    @property
    def latent(self) -> nn.Parameter:
        """The float weight."""
        return self.module.weight

    @property
    def grid(self) -> Grid:
        """The integers of the codes."""
        return Grid.between(*_DTYPE_TO_QVALUE_BOUNDS[self._fake.config.dtype])

    @property
    def scale_parameters(self) -> tuple[nn.Parameter, ...]:
        """The learned scale."""
        return tuple(self._fake.parameters())

    @torch.no_grad()
    def read(self) -> Reading:
        """Run the fake quantizer without hooks, and put back the scale that it stores."""
        fake = self._fake
        before = fake.scale, fake.zero_point
        try:
            values = fake.forward(self.latent)
            scale = over_blocks(fake.scale, self.latent.shape)
            zero_point = fake.zero_point.to(scale.dtype)
            if bool(zero_point.any()):
                zero_point = over_blocks(zero_point, self.latent.shape)
            else:
                zero_point = zero_point.new_zeros(())  # symmetric: one number instead of as many
        finally:
            if fake.config.is_dynamic:
                fake.scale, fake.zero_point = before
        return Reading(self.latent.detach(), codes_of(values, scale, zero_point), scale, zero_point)

    def on_output(self, change: Change) -> RemovableHandle:
        """Hook the fake quantizer."""
        return self._fake.register_forward_hook(_Hook(change))

    def hold(self, kept: tuple[Tensor, ...] | None = None) -> tuple[Tensor, ...]:
        """Make the dynamic scale a fixed one, which is not in the state of the model."""
        fake = self._fake
        if kept is None:
            before = fake.scale, fake.zero_point
            with torch.no_grad():
                fake.forward(self.latent)
            kept = fake.scale.detach().clone(), fake.zero_point.detach().clone()
            fake.scale, fake.zero_point = before
        fake.config = _changed(fake.config, is_dynamic=False)
        fake.scale, fake.zero_point = kept
        return kept

    def before_convert(self) -> None:
        """Let a fixed scale pass for a learned one, which conversion uses."""
        if not self._fake.config.is_dynamic:
            self._fake.config = _changed(self._fake.config, range_learning=True)

    def converted(self, model: Any) -> Reading | None:
        """Read the weight in a converted model.

        Raises:
            AttachError: The weight is in a format that has no codes to read.
        """
        try:
            weight: Any = module_named(model, self.name).weight
        except AttributeError:
            return None
        if not hasattr(weight, "qdata") or weight.qdata.shape != self.latent.shape:
            raise AttachError(
                f"{self.name}: quiesce.audit cannot read codes from {type(weight).__name__}; give "
                'it the result of quantize_(model, QATConfig(..., step="convert")) with an '
                "unpacked format, such as IntxWeightOnlyConfig"
            )
        shape = self.latent.shape
        scale, zero_point = (over_blocks(v, shape) for v in (weight.scale, weight.zero_point))
        codes = weight.qdata.to(scale.dtype)
        return Reading(self.latent.detach(), codes, scale, zero_point.to(scale.dtype))


class _Hook:
    """Changes the output of a fake quantizer; an instance is copied with its module."""

    def __init__(self, change: Change) -> None:
        self.change = change

    def __call__(self, fake: Any, args: Any, out: Tensor) -> Tensor:
        return self.change(out, *_spread(fake, out))


def _spread(fake: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and zero point, broadcastable to a tensor; also in a graph of gradients."""
    scale = over_blocks(fake.scale, like.shape)
    return scale, over_blocks(fake.zero_point, like.shape).to(scale.dtype)


def _changed(config: Any, **changes: bool) -> Any:
    """Return a copy, because layers share their config."""
    made = copy.copy(config)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def _check(name: str, fake: Any) -> None:
    config = fake.config
    if config.zero_point_domain == ZeroPointDomain.FLOAT:
        raise AttachError(f"{name}: quiesce does not follow zero points in the float domain")
    if config.range_learning and not config.is_symmetric:
        raise AttachError(
            f"{name}: torchao learns its zero point, which is then no integer; use "
            "is_symmetric=True"
        )
    if config.range_learning and not isinstance(fake.scale, nn.Parameter):
        raise NotCalibratedError(
            f"{name}: its learned scale has no value yet; call torchao.quantization.qat."
            "initialize_fake_quantizers(model, example_inputs) before quiesce.attach"
        )
    if not config.is_dynamic and fake.scale is None:
        raise NotCalibratedError(
            f"{name}: its fixed scale has no value yet; run one forward pass before "
            "quiesce.attach, or give it example_input"
        )
