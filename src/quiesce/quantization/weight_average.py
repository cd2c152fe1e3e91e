"""Exponential averages of a prepared model that keep the codes of frozen weights.

Latent weights and scales are averaged; the averaged network rounds the one by the other. What an
average of integers would destroy (see `quantizer`) is copied from the model instead.

Source: Gupta, Asthana, WACV 2024, arXiv:2311.05109, equations 6 to 8.
"""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from quiesce.errors import PrepareError
from quiesce.parallel.processes import unwrapped
from quiesce.quantization.prepare import quantized_weights
from quiesce.quantization.quantizer import FakeQuantizer

_Tensors = list[Tensor] | tuple[Tensor, ...]


class WeightAverage(AveragedModel):
    """Exponential average of the latent weights and scales of a prepared model.

        average = WeightAverage(model, decay=0.999)
        ...
        optimizer.step()
        average.update_parameters(model)
        ...
        average(images)  # or strip(average), export_onnx(average, ...)

    It is an AveragedModel of torch: `module` is the averaged network, and `state_dict` has all that
    is needed to go on. Weights, biases, scales, offsets and running statistics are averaged. Grids,
    codes of frozen weights and counts are those of the model at the last update; latents of frozen
    weights are the averaged scale times the code.

    Args:
        model: Prepared and calibrated; copied. DDP around it is left out.
        decay: Weight of the old average in each update, in [0, 1). The paper uses 0.9999 over 100
            epochs of ImageNet; an average over about 1/(1 - decay) updates.
        device: Where the average is kept; None: where the model is.

    Raises:
        ValueError: `decay` is out of its range.
        NothingToDoError: The model is not prepared.
    """

    def __init__(
        self, model: nn.Module, decay: float = 0.999, device: torch.device | int | None = None
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, got {decay}")
        model = unwrapped(model)
        quantized_weights(model)  # refuses a model that is not prepared
        super().__init__(model, device=device, multi_avg_fn=self._average, use_buffers=True)
        self.decay = decay
        self.eval()

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take one step of the average; call it after the optimizer's step.

        The first update copies the model, later ones compute
        average = decay * average + (1 - decay) * model.

        Raises:
            PrepareError: The model is not the one, or a copy of the one, that was averaged so far.
        """
        model = unwrapped(model)
        _quantizers(model, self.module)
        super().update_parameters(model)
        copy_history(model, self.module)

    def _average(self, averages: _Tensors, news: _Tensors, _: Tensor | int) -> None:
        """Move averages of one dtype towards new values, in place; of integers take the new."""
        for average, new in zip(averages, news, strict=True):
            if average.is_floating_point():
                average.lerp_(new, 1 - self.decay)
            else:
                average.copy_(new)


@torch.no_grad()
def copy_history(model: nn.Module, average: nn.Module) -> None:
    """Give an average of a model, made by other code, the grids and frozen codes of the model.

    `WeightAverage` does this itself. After it, frozen weights of the average have the codes of the
    model, and their latents are the averaged scale times the code.

    Args:
        model: Prepared.
        average: A copy of it with averaged parameters, such as `module` of timm's ModelEmaV3, or an
            AveragedModel. Changed in place.

    Raises:
        NothingToDoError: `average` is not prepared.
        PrepareError: They are not prepared alike.
    """
    for source, target in _quantizers(model, average):
        target.copy_integers(source)
    for weight in quantized_weights(unwrapped(average)):
        weight.pin_latents()


def _quantizers(model: nn.Module, average: nn.Module) -> list[tuple[FakeQuantizer, FakeQuantizer]]:
    """The quantizers of both, in pairs."""
    found = [
        {
            name: module
            for name, module in unwrapped(each).named_modules()
            if isinstance(module, FakeQuantizer)
        }
        for each in (model, average)
    ]
    quantized_weights(unwrapped(average))
    kinds = [{name: (q.bits, q.scale.shape) for name, q in each.items()} for each in found]
    if kinds[0] != kinds[1]:
        names = sorted(kinds[0].keys() | kinds[1].keys())
        odd = next(name for name in names if kinds[0].get(name) != kinds[1].get(name))
        raise PrepareError(
            f"the average and the model are not prepared alike; they differ in {odd}. Prepare "
            "and calibrate the model first, then make its average"
        )
    return [(found[0][name], found[1][name]) for name in found[0]]
