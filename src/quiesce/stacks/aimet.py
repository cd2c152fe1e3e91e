"""AIMET: layers of a `QuantizationSimModel`, whose weights have learned ranges.

AIMET's offset has the opposite sign of a zero point.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from aimet_torch.nn import BaseQuantizationMixin  # pyright: ignore[reportMissingImports]
from aimet_torch.quantization.affine import (  # pyright: ignore[reportMissingImports]
    QuantizeDequantize,
)
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from quiesce.arithmetic.grid import Grid
from quiesce.errors import AttachError, NotCalibratedError
from quiesce.parallel.wrappers import named_modules
from quiesce.stacks.qdq_onnx import constants
from quiesce.stacks.site import Change, Reading, Site, codes_of, over_blocks


def sites(model: nn.Module, wanted: Callable[[str], bool]) -> Iterator[Site]:
    """Yield the quantized weights of layers; those of norms, which are vectors, are left out.

    Raises:
        AttachError: A quantizer is of another kind.
        NotCalibratedError: A range has no value yet.
    """
    layers: Any = named_modules(model)
    for name, module in layers:
        if isinstance(module, BaseQuantizationMixin) and "weight" in module.param_quantizers:
            quantizer = module.param_quantizers["weight"]
            if quantizer is not None and module.weight.dim() > 1 and wanted(name):
                yield AimetWeight(name, module)


class AimetWeight(Site):
    """One weight of AIMET."""

    module: Any

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__(name, module)
        _check(name, self._quantizer)

    @property
    def _quantizer(self) -> Any:
        return self.module.param_quantizers["weight"]

    @property
    def latent(self) -> nn.Parameter:
        """The float weight."""
        return self.module._parameters["weight"]

    @property
    def grid(self) -> Grid:
        """The integers of the codes."""
        return Grid.between(int(self._quantizer.qmin), int(self._quantizer.qmax))

    @property
    def scale_parameters(self) -> tuple[nn.Parameter, ...]:
        """The learned ends of the range."""
        return tuple(self._quantizer.parameters())

    @torch.no_grad()
    def read(self) -> Reading:
        """Run the quantizer without hooks."""
        latent = self.latent.detach()
        values = self._quantizer.forward(latent).as_subclass(Tensor)
        scale, zero_point = _spread(self._quantizer, latent)
        return Reading(latent, codes_of(values, scale, zero_point), scale, zero_point)

    def on_output(self, change: Change) -> RemovableHandle:
        """Hook the quantizer."""
        return self._quantizer.register_forward_hook(_Hook(change))

    def converted(self, model: Any) -> Reading | None:
        """Read the weight in the ONNX file of `sim.export`, by its path.

        The file has float weights. Their codes are computed with the scale in the encodings, which
        are beside it, as the runtime of a device does.

        Raises:
            AttachError: There are no such files.
        """
        if not isinstance(model, str | Path):
            raise AttachError(
                "quiesce.audit of AIMET reads the .onnx file of sim.export; give its path, not a "
                f"{type(model).__name__}"
            )
        key = f"{self.name}.weight"
        weight, encoding = constants(model).get(key), _encodings(Path(model)).get(key)
        if weight is None or encoding is None:
            return None
        shape = self._quantizer.get_scale().shape
        scale = torch.tensor(encoding["scale"], dtype=torch.float32).reshape(shape)
        offset = torch.tensor(encoding["offset"], dtype=torch.float32)
        offset = (offset if offset.numel() > 1 else offset.reshape(())).expand(shape.numel())
        offset = offset.reshape(shape)
        levels = torch.round(weight / over_blocks(scale, weight.shape))
        offset = over_blocks(offset, weight.shape)
        levels = torch.clamp(levels, offset, offset + 2 ** encoding["bw"] - 1)
        zero_point = -self._quantizer.get_offset().detach()
        zero_point = over_blocks(zero_point, weight.shape)
        return Reading(weight, levels + zero_point, over_blocks(scale, weight.shape), zero_point)


class _Hook:
    """Changes the output of a quantizer and keeps its encoding; is copied with its module."""

    def __init__(self, change: Change) -> None:
        self.change = change

    def __call__(self, quantizer: Any, args: Any, out: Any) -> Any:
        plain = out.as_subclass(Tensor)
        made: Any = self.change(plain, *_spread(quantizer, plain)).as_subclass(type(out))
        if hasattr(out, "encoding"):
            made.encoding = out.encoding
        return made


def _spread(quantizer: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and zero point, broadcastable to a weight; also in a graph of gradients."""
    scale, zero_point = quantizer.get_scale(), -quantizer.get_offset()
    return over_blocks(scale, like.shape), over_blocks(zero_point, like.shape)


def _encodings(path: Path) -> dict[str, Any]:
    """Return the encodings of parameters beside an exported file, by name.

    Raises:
        AttachError: They are not there, or are not readable.
    """
    beside = path.with_suffix(".encodings")
    try:
        listed = json.loads(beside.read_text("utf-8"))["param_encodings"]
        return {each["name"]: each for each in listed}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AttachError(
            f"{beside} has no encodings of AIMET that quiesce.audit can read: {error}"
        ) from error


def _check(name: str, quantizer: Any) -> None:
    if type(quantizer) is not QuantizeDequantize:
        raise AttachError(
            f"{name}: quiesce does not follow {type(quantizer).__name__} of AIMET, only "
            f"QuantizeDequantize; leave it out: quiesce.attach(model, exclude=['{name}'])"
        )
    if not quantizer.is_initialized():
        raise NotCalibratedError(
            f"{name}: its range has no value yet; call sim.compute_encodings(...) before "
            "quiesce.attach"
        )
