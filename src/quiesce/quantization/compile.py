"""How a prepared model is run: operator by operator, with fused quantizers, or compiled whole."""

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
    """Choose how the quantizers of a prepared model, or all of it, are compiled, in place.

    Args:
        model: Prepared.
        mode: "off": every operator by itself. "quantizers": each quantizer's forward and backward,
            and each pass of trackers and cures, is one fused kernel; few kernels are compiled,
            whatever the model, in some ten seconds the first time and from torch's cache later.
            "model": the passes likewise, and the model's forward and backward compiled whole,
            which takes minutes for a large network and gives the fastest steps. The first
            dimension of its inputs stays free, so that a smaller last batch compiles nothing new,
            but for a single image, whose size is taken for a constant, and on a CPU across 16
            images, where torch chooses among its convolutions.

    Returns:
        `model` itself; names of parameters, copies and files are as before.

    Raises:
        ValueError: `mode` is none of these.
        NothingToDoError: The model is not prepared.
        CompilerError: The model is on a CPU, and there is no C++ compiler.
    """
    if mode not in MODES:
        raise ValueError(f"compile mode must be one of {MODES}, got {mode!r}")
    quantizers = [module for module in model.modules() if isinstance(module, FakeQuantizer)]
    if not quantizers:
        raise NothingToDoError("the model has no quantizer; call quiesce.prepare first")
    if mode != "off":
        _check_compiler(quantizers[0].scale.device)
    for quantizer in quantizers:
        quantizer.kernels = EAGER if mode == "off" else FUSED
    # where nn.Module.compile keeps what __call__ runs; left out of copies and files by torch itself
    calls = vars(model)
    calls.pop("_compiled_call_impl", None)
    if mode == "model":
        model.compile()
        calls["_compiled_call_impl"] = _any_batch(calls["_compiled_call_impl"])
    return model


def _check_compiler(device: torch.device) -> None:
    if device.type != "cpu":
        return  # what serves an accelerator comes with torch
    from torch._inductor.cpp_builder import get_cpp_compiler  # takes a second to import
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise CompilerError(
            "no C++ compiler was found, which compiled kernels need on a CPU; install g++ or clang "
            '(or name one in CXX), or use compile mode "off"'
        ) from error


def _any_batch(run: Callable[..., Any]) -> Callable[..., Any]:
    """`run` with the first dimension of every tensor given to it declared free."""

    def call(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.dim() and not torch.compiler.is_compiling():
                torch._dynamo.maybe_mark_dynamic(value, 0)
        return run(*args, **kwargs)

    return call
