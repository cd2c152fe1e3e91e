"""A trial forward pass on a copy of the network, before anything is written to disk."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from quiesce.data import Data
from quiesce.errors import DataError, RecipeError, first_line
from quiesce.quantization.prepare import prepare, quantized_weights
from quiesce.recipes.recipe import Recipe
from quiesce.training.recording.recorder import check_layer
from quiesce.user_code import find


@torch.no_grad()
def rehearse(recipe: Recipe, network: nn.Module, data: Data) -> None:
    """Run and prepare a copy of `network` on two training images; refuse what cannot be trained."""
    if recipe.metric is not None:
        find(recipe.metric, "metric")
    images = next(iter(data.train))[0][:2]
    twin = deepcopy(network)
    twin.train()
    visited: list[str] = []
    for name, module in twin.named_modules():
        if isinstance(module, BatchNorm):
            module.register_forward_pre_hook(lambda *_, name=name: visited.append(name))
    try:
        twin(images)
    except (ValueError, RuntimeError) as error:
        raise _explained(error, recipe, images, visited) from error
    prepared = prepare(deepcopy(network), recipe.scheme.scheme(), images[:1])
    check_layer(recipe.recording, [weight.name for weight in quantized_weights(prepared)])


def _explained(
    error: Exception, recipe: Recipe, images: Tensor, visited: list[str]
) -> DataError | RecipeError:
    shape = " x ".join(map(str, images.shape[1:]))
    if "more than 1 value per channel" in str(error):
        return DataError(
            f"batch norm {visited[-1]!r} gets one value per channel from a batch of {len(images)} "
            f"image of {shape}, which has no variance; set data.batch_size to 2 or more"
        )
    return RecipeError(
        f"the network {recipe.model.name} cannot take images of {shape} "
        f"({first_line(error)}); change data.image_size or model.name"
    )
