"""The list of weights that `quiesce.attach` returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from quiesce.arithmetic.kernels import FUSED
from quiesce.quantization.compile import check_compiler
from quiesce.quantization.quantized_weight import QuantizedWeight
from quiesce.stacks.attached_weight import AttachedWeight


class TrainedWeight(NamedTuple):
    """A weight at the end of training; copies, in the shape of the latent weight."""

    effective: Tensor
    """What was rounded."""
    codes: Tensor
    """Integral floats, with frozen codes."""
    frozen: Tensor
    """bool."""
    scale: Tensor
    """Broadcastable."""
    zero_point: Tensor
    """Broadcastable."""


class Attached(list[QuantizedWeight]):
    """The quantized weights of a network, in the order of its modules.

    Attributes:
        trained: Layer name to its weight when training ended, as `before_convert` found it.
    """

    trained: dict[str, TrainedWeight] | None = None

    def compile(self) -> None:
        """Compile the passes of trackers and cures into fused kernels.

        Call this before the tracker is made. It takes about ten seconds the first time; later the
        kernels come from torch's cache.

        Raises:
            CompilerError: The weights are on a CPU and there is no C++ compiler.
        """
        for weight in self:
            if isinstance(weight, AttachedWeight):
                check_compiler(weight.held.device)
                weight.kernels = FUSED

    def read(self) -> dict[str, TrainedWeight]:
        """Return copies of the weights of other toolkits, by layer name."""
        return {
            weight.name: TrainedWeight(*(each.clone() for each in _trained(weight)))
            for weight in self
            if isinstance(weight, AttachedWeight)
        }

    def before_convert(self) -> None:
        """Prepare the network for the conversion or export of its toolkit; training ends here.

        The latents of frozen weights get their codes, hooks are removed, and each toolkit is told
        to convert with the scales of training. `quiesce.audit` compares with the codes of this
        moment.
        """
        self.trained = self.read()
        for weight in self:
            if isinstance(weight, AttachedWeight):
                weight.release()
                weight.site.before_convert()

    def detach(self) -> None:
        """Remove all hooks; the latents of frozen weights keep their codes."""
        for weight in self:
            if isinstance(weight, AttachedWeight):
                weight.release()


def _trained(weight: AttachedWeight) -> TrainedWeight:
    now = weight.site.read()
    codes = weight.codes().to(now.scale.dtype)
    return TrainedWeight(now.effective, codes, weight.frozen, now.scale, now.zero_point)
