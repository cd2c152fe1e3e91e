"""Conversion of a float model to a model with quantized weights and activations, and back."""

import copy
from collections.abc import Collection, Mapping
from dataclasses import replace

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from quiesce.arithmetic.memory_order import is_dense
from quiesce.arithmetic.ranges import find_scale
from quiesce.arithmetic.scale_formats import in_format, largest_scale
from quiesce.errors import NothingToDoError, PrepareError
from quiesce.inference import Input
from quiesce.parallel.split_weights import average_gradients, is_split, put_together, reshard, whole
from quiesce.parallel.wrappers import named_modules, without_wrappers
from quiesce.quantization.dataflow import Dataflow, watch
from quiesce.quantization.fused_attention import restore_fused_paths, switch_off_fused_paths
from quiesce.quantization.patterns import covering
from quiesce.quantization.quantized_additions import QuantizedBlock, restore_block
from quiesce.quantization.quantized_layers import (
    LAYERS,
    QuantizedLayer,
    channel_dim,
    quantize_layer,
    restore_layer,
)
from quiesce.quantization.quantized_weight import QuantizedWeight, root_mean_square
from quiesce.quantization.quantizer import FakeQuantizer
from quiesce.quantization.residual import Residuals
from quiesce.quantization.scheme import LayerScheme, Scheme
from quiesce.quantization.ties import EMBEDDINGS, check_ties, tied_embeddings


def prepare(model: nn.Module, scheme: Scheme, example_input: Input) -> nn.Module:
    """Add a weight quantizer and an input quantizer to every convolution and linear layer in place.

    Parameters keep their identity, names and values, so existing float checkpoints can be loaded.
    Scales are new parameters: create the optimizer after this call. Weight scales are computed
    here. Input scales are computed by `calibrate`, which must be called before the first forward
    pass if activations are quantized. A weight shared by several layers has one quantizer, with the
    largest number of bits of these layers. An embedding that shares it looks up quantized rows.
    `print(quiesce.describe(model))` shows the result for every layer.

    Args:
        model: Any model whose forward calls Conv1d/2d/3d, ConvTranspose1d/2d/3d or Linear layers,
            or subclasses of them. It is run in inference mode.
        scheme: Bits, patterns and ranges.
        example_input: Input of the model: a tensor, a tuple of arguments or a dict of keyword
            arguments; any other object is the only argument. The forward pass on it determines
            which layers are called, which are first and last, and which layers and additions read
            the same tensor.

    Returns:
        `model`.

    Raises:
        PrepareError: The model is already prepared, or in DistributedDataParallel; a pattern
            matches nothing; or a layer is not called by the forward, or its weight is computed by a
            parametrization, has gaps in memory or is shared with a module that stays in float. The
            message names all such layers.
        NothingToDoError: There is no layer to quantize.

    Examples:
        >>> model = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(3)])
        >>> _ = qs.prepare(model, qs.Scheme(weight_bits=3), x)
        >>> [(weight.name, weight.grid.bits) for weight in qs.quantized_weights(model)]
        [('0', 8), ('1', 3), ('2', 8)]
    """
    if any(isinstance(module, QuantizedLayer) for module in model.modules()):
        raise PrepareError("the model is prepared already; start from the float model, or strip it")
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        raise PrepareError(
            "DistributedDataParallel does not average the gradients of parameters that it did not "
            "see, such as the scales of quiesce; call prepare and calibrate before it wraps the "
            "model"
        )
    layers = {name: m for name, m in named_modules(model) if isinstance(m, LAYERS)}
    if not layers:
        raise NothingToDoError(f"{type(model).__name__} has no convolution and no linear layer")
    scheme.check_patterns([*layers, *tied_embeddings(model, layers)])
    chosen = {name: layer for name, layer in layers.items() if scheme.selects(name)}
    if not chosen:
        raise NothingToDoError("include and exclude together leave no layer to quantize")
    flow = watch(model, example_input, chosen)
    reshard(model)
    _check_layers(chosen, flow, layers)
    check_ties(model, chosen, scheme)
    roles = scheme.resolve(list(chosen), first=flow.first, last=flow.last)
    plans = _agree_on_shared(chosen, _without_groups_of_convolutions(chosen, roles))
    _check_groups(chosen, plans)
    residuals = None
    if scheme.residual == "quantized":
        residuals = Residuals(model, example_input, flow, scheme)
    embeddings = tied_embeddings(model, chosen)
    quantizers: dict[int, FakeQuantizer] = {}
    for name, layer in chosen.items():
        weight, plan = _weight(layer), plans[name]
        if id(weight) not in quantizers:
            quantizers[id(weight)] = _weight_quantizer(name, layer, plan, scheme)
        inputs = None
        if plan.act_bits is not None:
            inputs = _activation_quantizer(f"{name}.input", plan, scheme).to(weight.device)
        quantize_layer(layer, quantizers[id(weight)], inputs)
    for embedding in embeddings.values():
        quantize_layer(embedding, quantizers[id(embedding.weight)], None)
    switch_off_fused_paths(model)
    if residuals is not None:
        plan = scheme.base()
        device = next(model.parameters()).device
        residuals.quantize(lambda name: _activation_quantizer(name, plan, scheme).to(device))
    return model


def strip(model: nn.Module) -> nn.Module:
    """Return a float copy of a prepared model whose weights are the quantized values.

    Args:
        model: A prepared model, or a wrapper of one, such as DDP or an AveragedModel. It is not
            changed.

    Returns:
        A deep copy without quantizers and wrappers. Its output equals that of the prepared model
        with float activations. Modules that share a weight still share it.

    Raises:
        NothingToDoError: The model is not prepared.
        NotCalibratedError: A weight has no scale.

    Examples:
        >>> plain = qs.strip(layer)
        >>> type(plain).__name__, len(plain.weight.unique()) <= 8
        ('Linear', True)
    """
    plain = copy.deepcopy(without_wrappers(model))
    values = {id(w.latent): _as_parameter(w) for w in quantized_weights(plain)}
    for module in list(plain.modules()):
        if isinstance(module, QuantizedLayer):
            latent = module.latent
            restore_layer(module)
            module.register_parameter("weight", values[id(latent)])
        elif isinstance(module, QuantizedBlock):
            restore_block(module)
    restore_fused_paths(plain)
    return plain


def quantized_weights(model: nn.Module) -> list[QuantizedWeight]:
    """Return the quantized weights in the order of the modules, each shared weight once.

    Raises:
        NothingToDoError: The model is not prepared.

    Examples:
        >>> [weight] = qs.quantized_weights(layer)
        >>> weight.latent is layer.weight, weight.codes().shape
        (True, torch.Size([4, 8]))
    """
    reshard(model)
    views: dict[int, QuantizedWeight] = {}
    for name, module in named_modules(model):
        if isinstance(module, EMBEDDINGS):  # the layer that shares the weight is listed instead
            continue
        if isinstance(module, QuantizedLayer) and id(module.weight_quantizer) not in views:
            view = QuantizedWeight(name, module.latent, module.weight_quantizer, module)
            views[id(module.weight_quantizer)] = view
    if not views:
        raise NothingToDoError(
            f"{type(model).__name__} has no quantized layer; call quiesce.prepare first"
        )
    return list(views.values())


def quantizer_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the scales and offsets, which published recipes give to a separate optimizer.

    Examples:
        >>> [tuple(scale.shape) for scale in qs.quantizer_parameters(layer)]
        [()]
    """
    quantizers = [module for module in model.modules() if isinstance(module, FakeQuantizer)]
    return [parameter for quantizer in quantizers for parameter in quantizer.parameters()]


def keep_whole(model: nn.Module) -> set[nn.Parameter]:
    """Set up a model for FSDP2 and return the parameters that every process keeps unsharded.

        fully_shard(model, ignored_params=keep_whole(model))

    These are scales and offsets. FSDP2 does not average the gradients of ignored parameters, so
    this function registers hooks that do. Call it once, and pass the set to every `fully_shard` of
    a part of the model.

    Args:
        model: A prepared model that is calibrated or loaded, and not sharded yet.

    Raises:
        NothingToDoError: The model is not prepared.
        PrepareError: A weight is already sharded.

    Examples:
        >>> [tuple(parameter.shape) for parameter in qs.keep_whole(layer)]
        [()]
    """
    for weight in quantized_weights(model):
        _refuse_split(weight.name, weight.latent)
    parameters = set(quantizer_parameters(model))
    average_gradients(parameters)
    for module in model.modules():
        if isinstance(module, FakeQuantizer) and module.history is not None:
            put_together(module, "history")
    return parameters


def measure_weights(model: nn.Module) -> None:
    """Recompute the scales of all weights from the latent weights, as `prepare` does.

    Use this after loading float weights into a prepared model. `calibrate` calls it too.

    Args:
        model: A prepared model. Its weight scales change in place; frozen weights stay frozen.

    Examples:
        >>> [weight] = qs.quantized_weights(layer)
        >>> before = weight.scale.item()
        >>> _ = layer.weight.data.mul_(2)
        >>> qs.measure_weights(layer)
        >>> round(weight.scale.item() / before, 2)
        2.0
    """
    reshard(model)
    for module in model.modules():
        if isinstance(module, QuantizedLayer) and not isinstance(module, EMBEDDINGS):
            _measure_weight(module.latent, module.weight_quantizer, channel_dim(module))


def _weight(layer: nn.Module) -> Tensor:
    return layer.weight  # pyright: ignore[reportReturnType]


def _as_parameter(weight: QuantizedWeight) -> nn.Parameter:
    values = weight.quantized().to(weight.latent.dtype)
    return nn.Parameter(values, requires_grad=weight.latent.requires_grad)


def _check_layers(chosen: Mapping[str, nn.Module], flow: Dataflow, layers: Collection[str]) -> None:
    """Raise one error that names all layers that cannot be quantized."""
    bad: dict[str, list[str]] = {}
    for name, layer in chosen.items():
        if name in flow.read_past:
            why = "another module multiplies by the weight without calling the layer"
        elif name not in flow.called:
            why = "the forward does not call it in inference"
        elif "weight" not in layer._parameters:
            why = "a parametrization (weight or spectral norm?) computes the weight"
        else:
            continue
        bad.setdefault(why, []).append(name)
    if bad:
        every = [name for names in bad.values() for name in names]
        patterns = covering(every, [name for name in layers if name not in every])
        reasons = "; ".join(
            f"{', '.join(covering(names, [n for n in layers if n not in names]))}: {why}"
            for why, names in bad.items()
        )
        raise PrepareError(
            f"{len(every)} of {len(chosen)} layers cannot be quantized. {reasons}. Leave them in "
            f"float: Scheme(exclude={[*patterns]}) added to the patterns that you have (heads for "
            "training alone still train), or give an example_input that reaches them"
        )
    for name, layer in chosen.items():
        _refuse_split(name, layer.weight)
    if gaps := [name for name, layer in chosen.items() if not is_dense(_weight(layer))]:
        raise PrepareError(
            f"{', '.join(gaps)}: the weight is a slice with gaps in memory; give the layer one of "
            "its own: layer.weight = nn.Parameter(layer.weight.detach().clone())"
        )


def _refuse_split(name: str, weight: object) -> None:
    if is_split(weight):
        raise PrepareError(
            f"{name}: its weight is split over processes already; call prepare, calibrate and "
            "keep_whole on the whole model, then fully_shard"
        )


def _agree_on_shared(
    chosen: Mapping[str, nn.Module], plans: dict[str, LayerScheme]
) -> dict[str, LayerScheme]:
    """Assign the weight scheme with the most bits to all layers that share a weight."""
    best: dict[int, LayerScheme] = {}
    for name, layer in chosen.items():
        key, plan = id(layer.weight), plans[name]
        if key not in best or plan.grid.bits > best[key].grid.bits:
            best[key] = plan
    return {
        name: replace(
            best[id(layer.weight)], act_bits=plans[name].act_bits, ranges=plans[name].ranges
        )
        for name, layer in chosen.items()
    }


def _without_groups_of_convolutions(
    chosen: Mapping[str, nn.Module], plans: Mapping[str, LayerScheme]
) -> dict[str, LayerScheme]:
    grouped = (nn.Linear, *EMBEDDINGS)
    return {
        name: plan if isinstance(chosen[name], grouped) else replace(plan, group_size=None)
        for name, plan in plans.items()
    }


def _check_groups(chosen: Mapping[str, nn.Module], plans: Mapping[str, LayerScheme]) -> None:
    """Raise one error that names all layers that groups do not divide."""
    bad = []
    for name, plan in plans.items():
        size, weight = plan.group_size, _weight(chosen[name])
        if size is not None and weight.shape[-1] % size:
            bad.append(f"{name} has {weight.shape[-1]} inputs, which {size} does not divide")
        elif size is not None and not weight.is_contiguous():
            bad.append(f"{name}: its weight is not contiguous in memory")
    if bad:
        raise PrepareError(
            f"group_size: {'; '.join(bad)}. Choose a size that divides the number of inputs, or "
            "set another one for these layers: Scheme(overrides={NAME: {'group_size': None}})"
        )


def _weight_quantizer(
    name: str, layer: nn.Module, plan: LayerScheme, scheme: Scheme
) -> FakeQuantizer:
    weight = _weight(layer)
    dim = channel_dim(layer)
    shape: tuple[int, ...] = ()
    if plan.group_size is not None:
        shape = (*weight.shape[:-1], weight.shape[-1] // plan.group_size)
    elif plan.per_channel:
        shape = tuple(size if i == dim else 1 for i, size in enumerate(weight.shape))
    quantizer = FakeQuantizer(
        plan.grid,
        scale_shape=shape,
        weight=weight,
        group_size=plan.group_size,
        scale_dtype=plan.scale_dtype,
        clip=scheme.clip,
        grad_scaling=scheme.grad_scaling,
        estimator=scheme.estimator,
        ranges=plan.ranges,
    ).to(weight.device)
    quantizer.name = f"{name}.weight"
    _measure_weight(weight, quantizer, dim)
    return quantizer


def _activation_quantizer(name: str, plan: LayerScheme, scheme: Scheme) -> FakeQuantizer:
    quantizer = FakeQuantizer(
        plan.act_bits or 0,  # not called without bits
        learn_offset=scheme.learn_offset,
        clip=scheme.clip,
        grad_scaling=scheme.grad_scaling,
        estimator=scheme.act_estimator,
        ranges=plan.ranges,
    )
    quantizer.name = name
    return quantizer


def _measure_weight(weight: Tensor, quantizer: FakeQuantizer, dim: int) -> None:
    grid = quantizer.weight_grid
    values, size = whole(weight), quantizer.group_size
    channels = dim if quantizer.scale.dim() else None
    if size is not None:
        values, channels = values.reshape(-1, size), 0
    scale = find_scale(values, grid, quantizer.ranges, channels, quantizer.scale_dtype)
    if float(scale.max()) > largest_scale(quantizer.scale_dtype):
        raise PrepareError(
            f"{quantizer.name}: the scale {float(scale.max()):.3g} is too large for "
            f"{quantizer.scale_dtype}; use scale_dtype='bfloat16' or 'float32', or smaller weights"
        )
    quantizer.set_grid(grid, in_format(scale, quantizer.scale_dtype))
    quantizer.measured_on = root_mean_square(whole(weight))
    if not is_split(weight):  # the tracker creates the history of a split weight
        quantizer.remember(weight)
