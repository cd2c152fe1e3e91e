"""From a float model to one that trains with quantized weights and activations, and back."""

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from quiesce.arithmetic.grid import Grid
from quiesce.arithmetic.memory_order import is_dense
from quiesce.arithmetic.ranges import find_scale
from quiesce.errors import NothingToDoError, PrepareError
from quiesce.inference import Input, run
from quiesce.parallel.split_weights import average_gradients, is_split, put_together, reshard, whole
from quiesce.quantization.quantized_additions import QuantizedBlock, restore_block
from quiesce.quantization.quantized_layers import (
    LAYERS,
    QuantizedLayer,
    channel_dim,
    quantize_layer,
    restore_layer,
)
from quiesce.quantization.quantized_weight import QuantizedWeight
from quiesce.quantization.quantizer import FakeQuantizer
from quiesce.quantization.residual import Residuals
from quiesce.quantization.scheme import LayerScheme, Scheme


def prepare(model: nn.Module, scheme: Scheme, example_input: Input) -> nn.Module:
    """Give every convolution and linear layer a weight and an input quantizer, in place.

    Parameters keep their identity, names and values, so a float checkpoint made before still fits.
    Scales are new ones: make the optimizer afterwards. Those of weights are found at once, those of
    inputs by `calibrate`, which must come before the first forward wherever activations are
    quantized. A weight shared by layers has one quantizer, with the widest bits that any of them
    asks for.

    Args:
        model: Any model whose forward calls Conv1d/2d/3d, ConvTranspose1d/2d/3d or Linear layers
            or subclasses of them. It is run in inference mode, nothing of it moves.
        scheme: Bits, patterns, ranges.
        example_input: What the forward takes: a tensor, a tuple of arguments or a dict of keyword
            arguments; anything else is the only argument. Read off it: the order in which layers
            are called and, with `residual="quantized"`, which of them and of the additions read the
            same tensor.

    Returns:
        `model` itself.

    Raises:
        PrepareError: The model is prepared already; a pattern matches nothing; a layer is not
            reached by the forward, or has its weight computed by a parametrization or lying in
            memory with gaps.
        NothingToDoError: No layer to quantize.
    """
    if any(isinstance(module, QuantizedLayer) for module in model.modules()):
        raise PrepareError("the model is prepared already; start from the float model, or strip it")
    called = _call_order(model, example_input)
    reshard(model)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, LAYERS)}
    if not layers:
        raise NothingToDoError(f"{type(model).__name__} has no convolution and no linear layer")
    scheme.check_patterns(list(layers))
    chosen = {name: layer for name, layer in layers.items() if scheme.selects(name)}
    if not chosen:
        raise NothingToDoError("include and exclude together leave no layer to quantize")
    _check_layers(chosen, called)
    order = [name for name in called if name in chosen]
    plans = _agree_on_shared(chosen, scheme.resolve(order))
    residuals = Residuals(model, example_input) if scheme.residual == "quantized" else None
    quantizers: dict[int, FakeQuantizer] = {}
    for name, layer in chosen.items():
        weight: Tensor = layer.weight  # pyright: ignore[reportAssignmentType]
        if id(weight) not in quantizers:
            quantizers[id(weight)] = _weight_quantizer(name, layer, plans[name], scheme)
        inputs = _input_quantizer(name, layer, plans[name], scheme)
        quantize_layer(layer, quantizers[id(weight)], inputs)
    if residuals is not None:
        plan = scheme.of_additions()
        device = next(model.parameters()).device
        residuals.quantize(lambda name: _activation_quantizer(name, plan, scheme).to(device))
    return model


def strip(model: nn.Module) -> nn.Module:
    """A plain float copy of a prepared model whose weights are the quantized values.

    Args:
        model: Prepared; it stays as it is.

    Returns:
        A deep copy without quantizers. Its forward equals the prepared model's with activations
        left in float.

    Raises:
        NothingToDoError: The model is not prepared.
        NotCalibratedError: A weight has no scale.
    """
    plain = copy.deepcopy(model)
    values = {id(w.latent): _as_parameter(w) for w in quantized_weights(plain)}
    for module in list(plain.modules()):
        if isinstance(module, QuantizedLayer):
            latent = module.latent
            restore_layer(module)
            # a parameter of its own: an embedding may share the latent and stay in float
            module.register_parameter("weight", values[id(latent)])
        elif isinstance(module, QuantizedBlock):
            restore_block(module)
    return plain


def quantized_weights(model: nn.Module) -> list[QuantizedWeight]:
    """Views of the quantized weights in the order of the model's modules, shared ones once.

    Raises:
        NothingToDoError: The model is not prepared.
    """
    reshard(model)
    views: dict[int, QuantizedWeight] = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLayer) and id(module.weight_quantizer) not in views:
            view = QuantizedWeight(name, module.latent, module.weight_quantizer, module)
            views[id(module.weight_quantizer)] = view
    if not views:
        raise NothingToDoError(
            f"{type(model).__name__} has no quantized layer; call quiesce.prepare first"
        )
    return list(views.values())


def quantizer_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Scales and learned offsets of a prepared model: the published recipes train them apart."""
    quantizers = [module for module in model.modules() if isinstance(module, FakeQuantizer)]
    return [parameter for quantizer in quantizers for parameter in quantizer.parameters()]


def keep_whole(model: nn.Module) -> set[nn.Parameter]:
    """Get a prepared model ready for FSDP2, and name the parameters that each process keeps whole.

        fully_shard(model, ignored_params=keep_whole(model))

    These are scales and offsets. FSDP2 leaves the gradients of what it ignores alone; they are
    averaged over all processes here. Give the set to every `fully_shard` of a part of the model.

    Args:
        model: Prepared, calibrated or loaded, and not split yet; call this once.

    Raises:
        NothingToDoError: The model is not prepared.
        PrepareError: A weight is split already.
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
    """Find the scales of all weights again from their latents, as `prepare` did."""
    reshard(model)
    for module in model.modules():
        if isinstance(module, QuantizedLayer):
            _measure_weight(module.latent, module.weight_quantizer, channel_dim(module))


def _as_parameter(weight: QuantizedWeight) -> nn.Parameter:
    values = weight.quantized().to(weight.latent.dtype)
    return nn.Parameter(values, requires_grad=weight.latent.requires_grad)


def _call_order(model: nn.Module, example_input: Input) -> dict[str, None]:
    """Names of the layers that a forward calls, each once, in order (a dict as an ordered set)."""
    called: dict[str, None] = {}
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: called.setdefault(name))
        for name, module in model.named_modules()
        if isinstance(module, LAYERS)
    ]
    try:
        run(model, example_input)
    finally:
        for handle in handles:
            handle.remove()
    return called


def _check_layers(chosen: Mapping[str, nn.Module], called: Mapping[str, None]) -> None:
    if unreached := [name for name in chosen if name not in called]:
        raise PrepareError(
            f"the forward does not call {', '.join(unreached[:5])}"
            f"{' ...' if len(unreached) > 5 else ''}; give an example_input that reaches them, or "
            f"leave them in float: Scheme(exclude={unreached[:5]})"
        )
    for name, layer in chosen.items():
        if "weight" not in layer._parameters:
            raise PrepareError(
                f"{name}: its weight is computed by a parametrization (weight or spectral norm?); "
                f"remove it first, or leave the layer in float: Scheme(exclude=[{name!r}])"
            )
        _refuse_split(name, layer.weight)
        if not is_dense(layer.weight):  # pyright: ignore[reportArgumentType]
            raise PrepareError(
                f"{name}: its weight is a slice with gaps in memory; give it one of its own: "
                "layer.weight = nn.Parameter(layer.weight.detach().clone())"
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
    """Layers that share a weight take one weight scheme: the one with the most bits."""
    best: dict[int, LayerScheme] = {}
    for name, layer in chosen.items():
        key, plan = id(layer.weight), plans[name]
        if key not in best or plan.weight_bits > best[key].weight_bits:
            best[key] = plan
    return {
        name: LayerScheme(
            weight_bits=best[id(layer.weight)].weight_bits,
            per_channel=best[id(layer.weight)].per_channel,
            act_bits=plans[name].act_bits,
            ranges=plans[name].ranges,
        )
        for name, layer in chosen.items()
    }


def _weight_quantizer(
    name: str, layer: nn.Module, plan: LayerScheme, scheme: Scheme
) -> FakeQuantizer:
    weight: Tensor = layer.weight  # pyright: ignore[reportAssignmentType]
    dim = channel_dim(layer)
    shape = tuple(size if i == dim else 1 for i, size in enumerate(weight.shape))
    quantizer = FakeQuantizer(
        plan.weight_bits,
        scale_shape=shape if plan.per_channel else (),
        weight=weight,
        clip=scheme.clip,
        grad_scaling=scheme.grad_scaling,
        estimator=scheme.estimator,
        ranges=plan.ranges,
    ).to(weight.device)
    quantizer.name = f"{name}.weight"
    _measure_weight(weight, quantizer, dim)
    return quantizer


def _input_quantizer(
    name: str, layer: nn.Module, plan: LayerScheme, scheme: Scheme
) -> FakeQuantizer | None:
    if plan.act_bits is None:
        return None
    weight: Tensor = layer.weight  # pyright: ignore[reportAssignmentType]
    return _activation_quantizer(f"{name}.input", plan, scheme).to(weight.device)


def _activation_quantizer(name: str, plan: LayerScheme, scheme: Scheme) -> FakeQuantizer:
    quantizer = FakeQuantizer(
        plan.act_bits or 0,  # whoever has no bits gets no quantizer
        learn_offset=scheme.learn_offset,
        clip=scheme.clip,
        grad_scaling=scheme.grad_scaling,
        estimator=scheme.act_estimator,
        ranges=plan.ranges,
    )
    quantizer.name = name
    return quantizer


def _measure_weight(weight: Tensor, quantizer: FakeQuantizer, dim: int) -> None:
    grid = Grid(quantizer.bits, signed=True)
    channels = dim if quantizer.scale.dim() else None
    quantizer.set_grid(grid, find_scale(whole(weight), grid, quantizer.ranges, channels))
    if not is_split(weight):  # of a split weight the tracker starts the records
        quantizer.remember(weight)
