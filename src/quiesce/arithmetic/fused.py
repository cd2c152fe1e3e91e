"""Compilation of pure tensor functions into fused inductor kernels that are called directly.

A call through `torch.compile` takes about thirty microseconds for guards, and a network makes
hundreds of such calls in a step. Here functions are traced with dynamic sizes and compiled by
inductor. A look-up by everything that changes the code (dtypes, devices, arguments that are None,
sizes of one) replaces the guards.
"""

import os
import subprocess
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental import _config as shapes
from torch.fx.experimental.proxy_tensor import make_fx

_WIDE = 2**31 - 1  # larger tensors need wider indices on accelerators


class Fused:
    """`function` compiled once for each kind of arguments.

    Args:
        function: A function of tensors, None, hashable constants, and named tuples of these. Its
            elementwise result must not depend on sizes, except for sizes of 1, which broadcast. It
            can change its arguments in place. It has no gradient.

    Attributes:
        made: The compiled functions, by kind of arguments.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.made: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *args: Any) -> Any:
        """Return what `function` returns: a tensor, or a named tuple of tensors and None."""
        tensors: list[Tensor] = []
        kind = _kind(args, tensors)
        run = self.made.get(kind)
        if run is None:
            run = self.made[kind] = _compile(self.function, args, tensors)
        return run(tensors)


@cache
def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the `Fused` of a function, or torch.compile of it on older versions of torch."""
    if not hasattr(torch._inductor, "standalone_compile"):
        return torch.compile(function, fullgraph=True, dynamic=True)
    return Fused(function)


def _kind(args: Any, tensors: list[Tensor]) -> tuple[Any, ...]:
    """Return the key of the compiled code for arguments; append their tensors to `tensors`."""
    parts: list[Any] = []
    for value in args:
        if isinstance(value, Tensor):
            tensors.append(value)
            few = tuple([size if size < 2 else 2 for size in value.shape])
            layout = True if value.is_contiguous() else value.stride()
            wide = value.numel() > _WIDE
            parts.append((value.dtype, value.device, few, wide, layout))
        elif isinstance(value, tuple):
            parts.append((type(value), _kind(value, tensors)))
        else:
            parts.append(value)
    return tuple(parts)


def _compile(
    function: Callable[..., Any], args: Any, tensors: list[Tensor]
) -> Callable[[list[Tensor]], Any]:
    if any(_is_beyond_inductor(tensor) for tensor in tensors):
        return lambda values: function(*_refill(args, iter(values)))
    returned: list[Any] = []

    def flat(*values: Tensor) -> tuple[Tensor, ...]:
        result = function(*_refill(args, iter(values)))
        returned.append(result)
        return (
            (result,) if isinstance(result, Tensor) else tuple(t for t in result if t is not None)
        )

    from torch._inductor import config  # slow to import

    # without duck shapes, equal sizes are not assumed to stay equal
    free = shapes.patch(use_duck_shape=False)  # pyright: ignore[reportAttributeAccessIssue]
    with torch.no_grad(), free:
        graph = make_fx(flat, tracing_mode="symbolic")(*tensors)
        with config.patch(_trusted()):
            code = torch._inductor.standalone_compile(
                graph, [*tensors], dynamic_shapes="from_graph"
            )
    [result] = returned
    if isinstance(result, Tensor):
        return lambda values: code(*values)[0]
    make, present = type(result)._make, [part is not None for part in result]

    def run(values: list[Tensor]) -> Any:
        out = iter(code(*values))
        return make(next(out) if there else None for there in present)

    return run


@cache
def _trusted() -> dict[str, bool]:
    """Return options of inductor that skip its test of the vector instructions of this CPU.

    Inductor compiles and loads a program for each instruction set, which takes seconds. The CPU is
    known to support them, so it is enough to test that the compiler accepts their flags.
    """
    from torch._inductor import config, cpp_builder, cpu_vec_isa
    from torch._inductor.exc import InvalidCxxCompiler

    here = set(cpu_vec_isa.x86_isa_checker())
    kinds = [isa for isa in cpu_vec_isa.supported_vec_isa_list if set(str(isa).split()) <= here]
    if config.cpp.vec_isa_ok is not None or not kinds:
        return {}
    try:
        for flags in {isa.build_arch_flags() for isa in kinds}:
            command = [cpp_builder.get_cpp_compiler(), *flags.split(), "-fsyntax-only", "-xc++"]
            subprocess.run([*command, os.devnull], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError, InvalidCxxCompiler):
        return {}  # inductor runs its own test
    return {"cpp.vec_isa_ok": True}


def _is_beyond_inductor(tensor: Tensor) -> bool:
    """Return whether to use eager mode, because inductor would compile wrong code.

    For an empty tensor, compilation has no benefit. Inductor treats a float64 scalar as a Python
    number, which only torch.compile supports.
    """
    return not tensor.numel() or (tensor.dtype == torch.float64 and not tensor.dim())


def _refill(args: Any, values: Any) -> list[Any]:
    """Return `args` with the tensors replaced, in order, by `values`."""
    filled = []
    for value in args:
        if isinstance(value, Tensor):
            filled.append(next(values))
        elif isinstance(value, tuple):
            parts = _refill(value, values)
            filled.append(type(value)(*parts) if hasattr(value, "_fields") else tuple(parts))
        else:
            filled.append(value)
    return filled
