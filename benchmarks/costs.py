"""Operations and bytes of a training step of the ImageNet recipes at 224 pixels, counted.

Writes results/costs.json. `benchmarks/table.py` makes the tables of docs/how-to/cluster.md of it,
with the assumptions about devices that are there.

Every operator that torch runs in a step (forward, backward, optimizer, tracker, cure) is seen by a
dispatch mode. Counted are the floating-point operations of convolutions and matrix products (with
the formulas of torch's FlopCounterMode, except for gradients of convolutions), the elements that
all other operators compute, and the bytes that operators read and write if each reads its inputs
and writes its outputs once. Counts of float and LSQ are the sum of a part per picture and a part
per step; two batch sizes give both, and a third one checks them. What tracker and freezing add to a
step depends on the number of flips in it.

Two ways to run quantizers and passes over weights are counted: operator by operator (compile mode
`off`), and as one kernel each (compile mode `quantizers`), which reads and writes everything once.

Usage: python benchmarks/costs.py
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from unittest.mock import patch

import torch
from measuring import save
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import conv_flop_count, flop_registry

from networks import cure_steps, data, float_network, float_step
from quiesce.arithmetic.kernels import EAGER, Kernels
from quiesce.quantization import compile as compiling
from quiesce.recipes.reading import read_recipe

NETWORKS = {
    "mobilenetv2_100": "mobilenetv2_freeze_w3a3",
    "tf_efficientnet_lite0": "efficientnet_lite0_freeze_w3a3",
    "mobilenetv3_small_100": "mobilenetv3_small_freeze_w3a3",
    "resnet18": "resnet18_freeze_w3a3",
}
"""Maps a network to its recipe."""

SIDE = 224
BATCHES = (2, 4, 6)
UNWRITTEN = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")


class Counts(TorchDispatchMode):
    """Counts what operators do while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.elements = 0
        self.bytes = 0
        self.inside_a_kernel = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.is_view or func._schema.name.removeprefix("aten::") in UNWRITTEN:
            return out
        counter = flop_registry.get(func._overloadpacket)
        if func is torch.ops.aten.convolution_backward.default:
            self.flops += backward_flops(*args)
        elif counter is not None:
            self.flops += counter(*args, **(kwargs or {}), out_val=out)
        else:
            self.elements += sum(each.numel() for each in tensors(out))
        if not self.inside_a_kernel:
            self.bytes += size((args, kwargs, out))
        return out

    def as_one(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that counts the bytes of its arguments and its result only."""

        def call(*args: Any) -> Any:
            outer, self.inside_a_kernel = self.inside_a_kernel, True
            try:
                out = function(*args)
            finally:
                self.inside_a_kernel = outer
            if not outer:
                self.bytes += size((args, out))
            return out

        return call


def backward_flops(grad: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> int:
    """Return the operations of the gradients of a convolution: each has those of the forward pass.

    The formula of torch counts the gradient of a depth-wise weight as that of a dense one.
    """
    *_, transposed, _, _, needed = rest
    forward = conv_flop_count(list(x.shape), list(weight.shape), list(grad.shape), transposed)
    return forward * sum(needed[:2])


def tensors(tree: Any) -> Iterable[Tensor]:
    """Return the tensors in nested tuples, lists and mappings."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def size(tree: Any) -> int:
    """Return the bytes of the tensors in a tree."""
    return sum(each.numel() * each.element_size() for each in tensors(tree))


def counted(call: Callable[[], Any], counts: Counts) -> dict[str, int]:
    """Return what one call does; the first call, which allocates, is not counted."""
    call()
    with counts:
        counts.flops = counts.elements = counts.bytes = 0
        call()
    return {"flops": counts.flops, "elements": counts.elements, "bytes": counts.bytes}


def steps(name: str, batch: int, *, fused: bool, counts: Counts) -> dict[str, Callable[[], Any]]:
    """Return a step of the quantized network with LSQ alone, and with freezing."""
    kernels = Kernels(*(counts.as_one(each) for each in EAGER)) if fused else EAGER
    with patch.object(compiling, "EAGER", kernels):
        made = cure_steps(name, "off", data(batch, SIDE))
    return {way: made[way] for way in ("lsq", "freezing")}


def linear(samples: Sequence[dict[str, int]]) -> dict[str, dict[str, int]]:
    """Return the part of each count per picture and per step, from counts at `BATCHES`."""
    small, middle, large = BATCHES
    parts = {}
    for what in samples[0]:
        first, second, third = (sample[what] for sample in samples)
        image = (second - first) // (middle - small)
        step = first - small * image
        if step + large * image != third:
            raise ValueError(f"{what}: {first}, {second}, {third} are not linear in the batch")
        parts[what] = {"image": image, "step": step}
    return parts


def added(samples: Sequence[dict[str, int]], to: Sequence[dict[str, int]]) -> dict[str, list[int]]:
    """Return what freezing adds to the counts of LSQ: it depends on the flips of the step."""
    return {
        what: [more[what] - less[what] for more, less in zip(samples, to, strict=True)]
        for what in samples[0]
    }


def costs(name: str) -> dict[str, Any]:
    """Return the counts of a network: float, LSQ, and what freezing adds to a step."""
    samples: dict[str, list[dict[str, int]]] = {}
    for batch in BATCHES:
        counts = Counts()
        calls = {"float": float_step(name, data(batch, SIDE))}
        for mode, fused in (("off", False), ("quantizers", True)):
            made = steps(name, batch, fused=fused, counts=counts)
            calls |= {f"{way}, {mode}": call for way, call in made.items()}
        for way, call in calls.items():
            samples.setdefault(way, []).append(counted(call, counts))
    found: dict[str, Any] = {"float": linear(samples["float"])}
    for mode in ("off", "quantizers"):
        lsq, freezing = samples[f"lsq, {mode}"], samples[f"freezing, {mode}"]
        found |= {f"lsq, {mode}": linear(lsq), f"freezing adds, {mode}": added(freezing, lsq)}
    model = float_network(name, compiled=False)
    recipe = read_recipe(NETWORKS[name])
    return {
        "parameters": sum(each.numel() for each in model.parameters()),
        "recipe": recipe.name,
        "batch": recipe.data.batch_size,
        "epochs": recipe.trainer.max_epochs,
        **found,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = {}
    for name in NETWORKS:
        results[name] = costs(name)
        print(name, results[name], flush=True)
    save("costs", {"side": SIDE, "networks": results})
