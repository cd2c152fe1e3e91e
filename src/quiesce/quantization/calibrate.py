"""First scales of a prepared model, found on real batches."""

import logging
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from quiesce.arithmetic.grid import Grid
from quiesce.arithmetic.ranges import find_affine, find_scale, sample
from quiesce.errors import DivergedError, NotCalibratedError, NothingToDoError
from quiesce.inference import Batch, Forward, call_on_batch, inference
from quiesce.parallel.processes import are_many, gathered, largest, taken, unwrapped
from quiesce.quantization.prepare import measure_weights
from quiesce.quantization.quantized_layers import QuantizedLayer
from quiesce.quantization.quantizer import FakeQuantizer

log = logging.getLogger(__name__)

_PER_BATCH = 2**15  # values kept of each batch, evenly spread
_IN_ALL = 2**18  # values kept per quantizer; beyond that every second one is let go


class Observation:
    """What one input quantizer saw: its extremes, and an even sample of the values."""

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.finite = True
        self._kept: list[Tensor] = []
        self._per_batch = _PER_BATCH

    def __call__(self, x: Tensor) -> None:
        """Take in a tensor of any shape, which may be empty."""
        if not x.numel():
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
        """The sample: floats of shape (values,), extremes included."""
        return torch.cat([*self._kept, self._kept[0].new_tensor([self.low, self.high])])

    def __bool__(self) -> bool:
        return bool(self._kept)

    def share(self, device: torch.device) -> None:
        """Take in what the other processes saw of the same input: all call this."""
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
    """Find all scales of a prepared model: of weights from the weights, of inputs from batches.

    The batches pass through the network in float and inference mode; nothing but scales, offsets
    and grids moves. An input that goes below zero anywhere gets a signed grid, any other an
    unsigned one; one that is zero throughout the scale 1, and that is logged. Call it again after
    loading a float checkpoint; it then forgets what the scales had learned. Where torch.distributed
    is initialised, every process calls this with its own batches, and all get the scales of what
    all have seen.

    Args:
        model: Prepared; changed in place.
        batches: On the device of the model: what it takes, or pairs of that and a label. `(x, y)`
            is an input and its label, `((x, y), label)` are two arguments, `({"x": x}, label)` is
            a keyword argument; `quiesce.inference` has the whole rule.
        count: Batches to read at most, at least 1.
        forward: Called with the model and a batch instead, for batches of any other kind.

    Returns:
        `model` itself.

    Raises:
        ValueError: `count` is below 1.
        TypeError: A batch holds no tensor, or the forward of the model takes other arguments.
        NothingToDoError: The model is not prepared, or there is no batch.
        NotCalibratedError: No batch reached one of the layers.
        DivergedError: An input held NaN or inf; the layer is named.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1 batch, got {count}")
    layers = [module for module in model.modules() if isinstance(module, QuantizedLayer)]
    if not layers:
        raise NothingToDoError("the model has no quantized layer; call quiesce.prepare first")
    module = unwrapped(model)
    quantizers = [module for module in model.modules() if isinstance(module, FakeQuantizer)]
    seen = {quantizer: Observation() for quantizer in quantizers if quantizer.history is None}
    try:
        for layer in layers:
            layer.weight_quantizer.observe = _pass
        for quantizer, observation in seen.items():
            quantizer.observe = observation
        read = 0
        with inference(model):
            for batch in taken(batches, count, model):
                call_on_batch(module, batch, forward)
                read += 1
    finally:
        for module in model.modules():
            if isinstance(module, FakeQuantizer):
                module.observe = None
    device = layers[0].latent.device
    for observation in seen.values():
        observation.share(device)
    if not float(largest(torch.tensor(float(read), device=device))):
        raise NothingToDoError("batches is empty; no scale was changed")
    for quantizer, observation in seen.items():
        _check(quantizer, observation)
    for quantizer, observation in seen.items():
        _settle(quantizer, observation)
    measure_weights(model)
    return model


def _pass(_: Tensor) -> None:
    """Let a weight through in float: it is measured by itself."""


def _check(quantizer: FakeQuantizer, observation: Observation) -> None:
    if not observation:
        raise NotCalibratedError(
            f"no batch reached {quantizer.name}; calibrate on batches that do, or leave the layer "
            "in float with Scheme(exclude=...)"
        )
    if not observation.finite:
        raise DivergedError(
            f"{quantizer.name} saw NaN or inf in float; mend the data or the network"
        )


def _settle(quantizer: FakeQuantizer, observation: Observation) -> None:
    if observation.low == observation.high == 0:
        log.warning(
            "%s saw nothing but zeros; its scale is 1. Look at what comes before it, or calibrate "
            "on other batches",
            quantizer.name,
        )
    values = observation.values()
    if quantizer.offset is not None:
        grid = Grid(quantizer.bits, signed=False)
        quantizer.set_grid(grid, *find_affine(values, grid))
    else:
        grid = Grid(quantizer.bits, signed=observation.low < 0)
        quantizer.set_grid(grid, find_scale(values, grid, quantizer.ranges))
