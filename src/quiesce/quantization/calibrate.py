"""Calibration: the initial scales of a prepared model."""

import logging
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from quiesce.arithmetic.grid import Grid
from quiesce.arithmetic.ranges import find_affine, find_scale, sample
from quiesce.errors import DivergedError, NotCalibratedError, NothingToDoError
from quiesce.inference import Batch, Forward, call_on_batch, inference
from quiesce.parallel.processes import are_many, gathered, largest, taken
from quiesce.parallel.wrappers import named_modules, unwrapped
from quiesce.quantization.patterns import covering
from quiesce.quantization.prepare import measure_weights
from quiesce.quantization.quantized_layers import QuantizedLayer
from quiesce.quantization.quantizer import FakeQuantizer, observed, unobserved

log = logging.getLogger(__name__)

TINY = 1e-8
"""Scale below which `calibrate` warns."""

_PER_BATCH = 2**15  # values kept of each batch
_IN_ALL = 2**18  # maximum number of values per quantizer; above it, half are dropped


class Observation:
    """Minimum, maximum and an evenly spaced sample of the inputs of a quantizer."""

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.finite = True
        self._kept: list[Tensor] = []
        self._per_batch = _PER_BATCH

    def __call__(self, x: Tensor) -> None:
        """Record the values of a tensor of any shape; it can be empty."""
        if not x.numel():  # a batch without samples, such as no boxes found
            return
        flat = x.detach().flatten().float()
        low, high = (float(end) for end in flat.aminmax())
        self.finite &= abs(low) < float("inf") and abs(high) < float("inf")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._kept.append(sample(flat, self._per_batch).clone())
        if sum(part.numel() for part in self._kept) > _IN_ALL:
            self._kept = [sample(self.values(), _IN_ALL // 2)]
            self._per_batch = max(1, self._per_batch // 2)

    def values(self) -> Tensor:
        """Return the sample with minimum and maximum: floats (values,)."""
        return torch.cat([*self._kept, self._kept[0].new_tensor([self.low, self.high])])

    def __bool__(self) -> bool:
        return bool(self._kept)

    def share(self, device: torch.device) -> None:
        """Merge the observations of all processes; all processes must call this."""
        if not are_many():
            return
        seen = torch.tensor([-self.low, self.high, float(not self.finite)], device=device)
        low, self.high, broken = largest(seen.nan_to_num(torch.inf)).tolist()
        self.low, self.finite = -low, not broken
        mine = torch.cat(self._kept) if self._kept else torch.empty(0, device=device)
        parts = gathered(mine)
        self._kept = [sample(part, max(1, _IN_ALL // len(parts))) for part in parts if len(part)]


@torch.no_grad()
def calibrate(
    model: nn.Module, batches: Iterable[Batch], count: int = 16, *, forward: Forward | None = None
) -> nn.Module:
    """Compute weight scales from the weights and input scales from batches, in place.

    The float network runs on the batches in inference mode. Only scales, offsets and grids change.
    Inputs with negative values get a signed grid, all others an unsigned grid. An input that is
    always zero gets the scale 1, and a warning is logged. Call this again after loading a float
    checkpoint; it overwrites learned scales. In distributed training, all processes must call it
    with their own batches, and they get the same scales.

    Args:
        model: The prepared model, changed in place.
        batches: Batches on the device of the model: inputs, or pairs of an input and a label.
            `(x, y)` is an input and its label, `((x, y), label)` are two arguments, and `({"x": x},
            label)` is a keyword argument; see `quiesce.inference`.
        count: Maximum number of batches to read, at least 1.
        forward: Function called with the model and a batch, for batches of any other kind.

    Returns:
        `model`.

    Raises:
        ValueError: `count` is below 1.
        TypeError: A batch contains no tensor, or the forward takes different arguments.
        NothingToDoError: The model is not prepared, or there is no batch.
        NotCalibratedError: No batch reached some of the layers. The message names them.
        DivergedError: An input contains NaN or inf. The message names the layer.

    Examples:
        >>> _ = qs.calibrate(layer, [x, 2 * x])
        >>> layer(x).shape
        torch.Size([4, 4])
    """
    if count < 1:
        raise ValueError(f"count must be at least 1 batch, got {count}")
    layers = [module for module in model.modules() if isinstance(module, QuantizedLayer)]
    if not layers:
        raise NothingToDoError("the model has no quantized layer; call quiesce.prepare first")
    module = unwrapped(model)
    quantizers = [module for module in model.modules() if isinstance(module, FakeQuantizer)]
    seen = {quantizer: Observation() for quantizer in quantizers if quantizer.history is None}
    read = 0
    observers = dict.fromkeys(quantizers, unobserved) | seen
    with inference(model), observed(observers), torch.compiler.set_stance("force_eager"):
        for batch in taken(batches, count, model):
            call_on_batch(module, batch, forward)
            read += 1
    device = layers[0].latent.device
    for observation in seen.values():
        observation.share(device)
    if not float(largest(torch.tensor(float(read), device=device))):
        raise NothingToDoError("batches is empty; no scale was changed")
    _check_reached(model, seen)
    for quantizer, observation in seen.items():
        if not observation.finite:
            raise DivergedError(
                f"{quantizer.name} got NaN or inf in float; correct the data or the network"
            )
    for quantizer, observation in seen.items():
        _settle(quantizer, observation)
    measure_weights(model)
    _warn_of_tiny(quantizers)
    return model


def _check_reached(model: nn.Module, seen: Mapping[FakeQuantizer, Observation]) -> None:
    """Raise one error for all inputs that no batch reached."""
    unreached = [quantizer for quantizer, observation in seen.items() if not observation]
    if not unreached:
        return
    missed = [quantizer.name for quantizer in unreached]
    layers = {name: m for name, m in named_modules(model) if isinstance(m, QuantizedLayer)}
    idle = [name for name, m in layers.items() if m.input_quantizer in unreached]
    advice = ""
    if idle:
        patterns = covering(idle, [name for name in layers if name not in idle])
        advice = f", or leave these layers in float: prepare with Scheme(exclude={patterns})"
    raise NotCalibratedError(
        f"no batch reached {', '.join(missed[:5])}{' ...' if len(missed) > 5 else ''} "
        f"({len(missed)} in all); calibrate on batches that do{advice}"
    )


def _warn_of_tiny(quantizers: Iterable[FakeQuantizer]) -> None:
    """Warn about tiny scales: all values are close to 0, or a layer is dead."""
    names = [each.name for each in quantizers if float(each.step_size.min()) < TINY]
    if names:
        log.warning(
            "scales below %g: %s. The numbers there are all close to 0: look at the "
            "initialisation, at what comes before, or leave these layers in float",
            TINY,
            ", ".join(names),
        )


def _settle(quantizer: FakeQuantizer, observation: Observation) -> None:
    if observation.low == observation.high == 0:
        log.warning(
            "%s got only zeros; its scale is 1. Look at the layers before it, or calibrate on "
            "other batches",
            quantizer.name,
        )
    values = observation.values()
    if quantizer.offset is not None:
        grid = Grid(quantizer.bits, signed=False)
        quantizer.set_grid(grid, *find_affine(values, grid))
    else:
        grid = Grid(quantizer.bits, signed=observation.low < 0)
        quantizer.set_grid(grid, find_scale(values, grid, quantizer.ranges))
