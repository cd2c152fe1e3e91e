"""quiesce: low-bit quantization-aware training whose weights come to rest.

The core imports torch and nothing else; `quiesce.lightning`, `quiesce.training` and `quiesce.cli`
need the extra "train", `quiesce.report` the extra "report". `import quiesce` alone imports nothing:
the names of `quiesce.public` come with the first of them that is asked for, so that a command that
only reads files does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quiesce.public import *

__all__ = [
    "DSQ",
    "EWGS",
    "PSG",
    "STE",
    "Control",
    "Cure",
    "Dampening",
    "DistanceSampling",
    "Estimator",
    "FakeQuantizer",
    "Freezing",
    "Grid",
    "Hysteresis",
    "LayerReport",
    "OscillationTracker",
    "QuantizedWeight",
    "QuiesceError",
    "Scheme",
    "StableQAT",
    "StackedSigmoid",
    "StochasticRounding",
    "Watch",
    "calibrate",
    "compile",
    "constant",
    "cosine",
    "export_onnx",
    "fake_quantize",
    "gaussian_kl",
    "keep_whole",
    "linear",
    "mse_scale",
    "prepare",
    "quantized_weights",
    "quantizer_parameters",
    "reestimate_batchnorm",
    "strip",
    "verify_onnx",
    "verify_ranks",
    "whole",
]


def __getattr__(name: str) -> Any:
    """Get a public name, and with the first one all of them."""
    if name not in __all__:
        raise AttributeError(f"module 'quiesce' has no attribute {name!r}")
    public = import_module("quiesce.public")
    globals().update({each: getattr(public, each) for each in __all__})
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
