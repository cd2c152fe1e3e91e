"""quiesce: low-bit quantization-aware training whose weights come to rest.

The core imports torch and nothing else; `quiesce.lightning`, `quiesce.training` and `quiesce.cli`
need the extra "train", `quiesce.report` the extra "report". `import quiesce` alone imports nothing:
the names of `quiesce.public` come with the first of them that is asked for, so that a command that
only reads files does not wait for torch.
"""

import sys
from importlib import import_module
from types import ModuleType
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

_NAMED_LIKE_THEIR_FILE = ("calibrate", "compile", "fake_quantize", "prepare")


class _Package(ModuleType):
    """This package as a module: gets its public names late, and keeps them."""

    def __getattr__(self, name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'quiesce' has no attribute {name!r}")
        public = import_module("quiesce.public")
        vars(self).update({each: getattr(public, each) for each in __all__})
        return vars(self)[name]

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse what an import does: to hide the function `prepare` behind its file prepare.py."""
        if not (isinstance(value, ModuleType) and name in _NAMED_LIKE_THEIR_FILE):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
