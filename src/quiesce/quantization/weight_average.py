"""Exponential moving average of a prepared model that preserves the codes of frozen weights.

Latent weights and scales are averaged, and the averaged network quantizes the averaged weights with
the averaged scales. Integers have no meaningful average (see `quantizer`) and are copied instead.

Source: Gupta, Asthana, WACV 2024, arXiv:2311.05109, equations 6 to 8.
"""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from quiesce.errors import PrepareError
from quiesce.parallel.wrappers import named_modules, unwrapped
from quiesce.quantization.prepare import quantized_weights
from quiesce.quantization.quantizer import FakeQuantizer

_Tensors = list[Tensor] | tuple[Tensor, ...]


class WeightAverage(AveragedModel):
    """Exponential moving average of the latent weights and scales of a prepared model.

        average = WeightAverage(model, decay=0.999)
        ...
        optimizer.step()
        average.update_parameters(model)
        ...
        average(images)  # or strip(average), export_onnx(average, ...)

    This is a subclass of torch's AveragedModel: `module` is the averaged network, and `state_dict`
    contains everything needed to resume. Weights, biases, scales, offsets and running statistics
    are averaged. Grids, codes of frozen weights and counts are copied from the model at each
    update. Latents of frozen weights are the averaged scale times the code.

    Args:
        model: A prepared and calibrated model. It is copied without a DDP wrapper.
        decay: Weight of the old average in each update, in [0, 1). The average covers about
            1/(1 - decay) updates. The paper uses 0.9999 for 100 epochs of ImageNet.
        device: Device of the average, or None for the device of the model.

    Raises:
        ValueError: `decay` is out of range.
        NothingToDoError: The model is not prepared.

    Examples:
        >>> average = qs.WeightAverage(layer, decay=0.99)
        >>> average.update_parameters(layer)
        >>> average.n_averaged.item()
        1
    """

    def __init__(
        self, model: nn.Module, decay: float = 0.999, device: torch.device | int | None = None
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, got {decay}")
        model = unwrapped(model)
        quantized_weights(model)  # raises if the model is not prepared
        super().__init__(model, device=device, multi_avg_fn=self._average, use_buffers=True)
        self.decay = decay
        self.eval()

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Update the average; call this after the optimizer step.

        The first update copies the model. Later updates compute
        average = decay * average + (1 - decay) * model.

        Raises:
            PrepareError: The quantizers of the model differ from those of the average.
        """
        model = unwrapped(model)
        _quantizers(model, self.module)
        super().update_parameters(model)
        copy_history(model, self.module)

    def _average(self, averages: _Tensors, news: _Tensors, _: Tensor | int) -> None:
        """Update averages of one dtype in place; integers are replaced by the new values."""
        for average, new in zip(averages, news, strict=True):
            if average.is_floating_point():
                average.lerp_(new, 1 - self.decay)
            else:
                average.copy_(new)


@torch.no_grad()
def copy_history(model: nn.Module, average: nn.Module) -> None:
    """Copy the grids and frozen codes of a model to an average made by other code.

    `WeightAverage` does this itself. Afterwards, frozen weights of the average have the codes of
    the model, and their latents are the averaged scale times the code.

    Args:
        model: The prepared model.
        average: A copy of the model with averaged parameters, such as `module` of timm's
            ModelEmaV3, or an AveragedModel. It is changed in place.

    Raises:
        NothingToDoError: `average` is not prepared.
        PrepareError: The quantizers of `model` and `average` differ.

    Examples:
        >>> average = torch.optim.swa_utils.AveragedModel(layer)
        >>> average.update_parameters(layer)
        >>> qs.copy_history(layer, average.module)
    """
    for source, target in _quantizers(model, average):
        target.copy_integers(source)
    for weight in quantized_weights(unwrapped(average)):
        weight.pin_latents()


def _quantizers(model: nn.Module, average: nn.Module) -> list[tuple[FakeQuantizer, FakeQuantizer]]:
    """Return pairs of corresponding quantizers."""
    found = [
        {name: module for name, module in named_modules(each) if isinstance(module, FakeQuantizer)}
        for each in (model, average)
    ]
    quantized_weights(unwrapped(average))
    kinds = [{name: (q.weight_grid, q.scale.shape) for name, q in each.items()} for each in found]
    if kinds[0] != kinds[1]:
        names = sorted(kinds[0].keys() | kinds[1].keys())
        odd = next(name for name in names if kinds[0].get(name) != kinds[1].get(name))
        raise PrepareError(
            f"the average and the model are prepared differently; {odd} differs. Prepare "
            "and calibrate the model first, then make its average"
        )
    return [(found[0][name], found[1][name]) for name in found[0]]
