"""Compile modes of a prepared model: eager, with fused quantizers, or compiled as a whole."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from quiesce.arithmetic.kernels import EAGER, FUSED
from quiesce.errors import CompilerError, NothingToDoError
from quiesce.quantization.quantizer import FakeQuantizer

CompileMode = Literal["off", "quantizers", "model"]
MODES: tuple[str, ...] = get_args(CompileMode)


def compile(model: nn.Module, mode: CompileMode) -> nn.Module:
    """Compile the quantizers of a prepared model, or the whole model, in place.

    Args:
        model: The prepared model.
        mode: "off": eager mode. "quantizers": the forward and backward pass of each quantizer, and
            each pass of trackers and cures, is one fused kernel. A few kernels are compiled for any
            model, which takes about ten seconds the first time; later they come from torch's cache.
            "model": additionally, the forward and backward pass of the model are compiled. This
            takes minutes for a large network and gives the fastest steps. The first dimension of
            the inputs is dynamic, so a smaller last batch causes no recompilation. Exceptions are a
            single image and, on a CPU, a batch that crosses 16 images, where torch selects another
            convolution.

    Returns:
        `model`. Parameter names, copies and saved files do not change.

    Raises:
        ValueError: `mode` is unknown.
        NothingToDoError: The model is not prepared.
        CompilerError: The model is on a CPU and there is no C++ compiler.

    Examples:
        >>> qs.compile(layer, "off") is layer
        True
    """
    if mode not in MODES:
        raise ValueError(f"compile mode must be one of {MODES}, got {mode!r}")
    quantizers = [module for module in model.modules() if isinstance(module, FakeQuantizer)]
    if not quantizers:
        raise NothingToDoError("the model has no quantizer; call quiesce.prepare first")
    if mode != "off":
        check_compiler(quantizers[0].scale.device)
    for quantizer in quantizers:
        quantizer.kernels = EAGER if mode == "off" else FUSED
    # nn.Module.compile stores the compiled call here; torch leaves it out of copies and files
    calls = vars(model)
    calls.pop("_compiled_call_impl", None)
    if mode == "model":
        model.compile()
        calls["_compiled_call_impl"] = _any_batch(calls["_compiled_call_impl"])
    return model


def check_compiler(device: torch.device) -> None:
    """Check that torch can compile kernels for a device.

    Raises:
        CompilerError: It is a CPU, and there is no C++ compiler.
    """
    if device.type != "cpu":
        return  # torch includes the compiler for accelerators
    from torch._inductor.cpp_builder import get_cpp_compiler  # slow to import
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise CompilerError(
            "compiled kernels need a C++ compiler on a CPU, and none was found; install g++ or "
            'clang (or name one in CXX), or use compile mode "off"'
        ) from error


def _any_batch(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return `run` with the first dimension of its tensors marked as dynamic."""

    def call(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.dim() and not torch.compiler.is_compiling():
                torch._dynamo.maybe_mark_dynamic(value, 0)
        return run(*args, **kwargs)

    return call
