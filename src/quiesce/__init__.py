"""Low-bit quantization-aware training that measures and cures weight oscillation.

Quantize a network:
    Scheme: which weights and activations are quantized, to how many bits
    prepare: give the layers of a network quantizers
    describe: a table of what each layer got
    calibrate: set the scales from some batches
    measure_weights: set the scales of the weights again, after loading float weights
    keep_whole: the parameters that FSDP2 must not split
    strip: remove the quantizers and keep the quantized weights
    compile: fuse the quantizers, or the whole network, into compiled kernels
    quantized_weights: the quantized weights of a network, by name
    quantizer_parameters: the scales and offsets, for an optimizer group of their own
    parameter_groups: all parameters in groups, of which only weights are decayed
    QuantizedWeight: one quantized weight: latent weight, scale and codes
    FakeQuantizer: the module that quantizes a tensor in training
    Grid: the integer codes of a quantizer
    fake_quantize: quantize and dequantize a tensor
    mse_scale: the scale with the least squared error

Measure and cure oscillation:
    OscillationTracker: frequency of oscillation of every weight
    momentum_for: the momentum of its frequencies for a training of known length
    LayerReport: what the tracker measured in one layer
    DistanceSampling: which weights and steps measure the distance ratio
    Control: tracker, cures and their schedules, in one object for a training loop
    Cure: the interface of cures
    Dampening: a penalty that pulls latent weights to their grid points
    BinRegularization, OBR: penalties that pull all weights of one code together
    Freezing: pins weights that oscillate too often
    TRS: lets the learning rate follow a rate of code changes
    OsciReset: moves oscillating weights to their grid points, again and again
    QRamping: updates oscillating weights less often, by larger steps
    CGA: at the end of training, lets only weights at a threshold learn
    Snap: after training, gives oscillating weights the code that they had most often
    constant, cosine, linear: schedules of a cure's strength or threshold
    reestimate_batchnorm: measure batch-norm statistics again after training
    gaussian_kl: KL divergence of two sets of batch-norm statistics
    record: a run folder of your own loop, for `quiesce diagnose` and `quiesce report`
    Watch: checks that find common faults of a training run

Networks of other quantization toolkits:
    attach: their quantized weights, for tracker, cures and reports
    audit: which codes the conversion of the toolkit has changed, and why
    Adapter, WeightGrid: functions that reach the weights of any other toolkit

Average the weights:
    WeightAverage: exponential average of latent weights and scales that keeps frozen codes
    copy_history: give frozen codes to an average that other code has made

Gradient estimators of rounding:
    Estimator: the interface
    STE, EWGS, PSG, DSQ, StableQAT, StackedSigmoid, Hysteresis, QEMA, StochasticRounding

Search hyper-parameters:
    tune: find values of the fields of a recipe with Optuna

Export, many processes, errors:
    export: write a network for a runtime, such as ExecuTorch, and verify it there
    export_onnx: write a network as integers
    export_gguf: write a language model or embedder with its trained codes, for llama.cpp
    verify_onnx: check that the file computes what the network computes
    verify_ranks: check that all processes hold the same weights
    whole: the full tensor of a weight that is split over processes
    QuiesceError: the base class of the errors

`import quiesce` imports nothing else; the first public name that you use imports torch. The modules
`quiesce.lightning`, `quiesce.training` and `quiesce.cli` need the extra "train", `quiesce.report`
the extra "report".
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quiesce.public import *

__all__ = [
    "CGA",
    "DSQ",
    "EWGS",
    "OBR",
    "PSG",
    "QEMA",
    "STE",
    "TRS",
    "Adapter",
    "BinRegularization",
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
    "OsciReset",
    "OscillationTracker",
    "QRamping",
    "QuantizedWeight",
    "QuiesceError",
    "Scheme",
    "Snap",
    "StableQAT",
    "StackedSigmoid",
    "StochasticRounding",
    "Watch",
    "WeightAverage",
    "WeightGrid",
    "attach",
    "audit",
    "calibrate",
    "compile",
    "constant",
    "copy_history",
    "cosine",
    "describe",
    "export",
    "export_gguf",
    "export_onnx",
    "fake_quantize",
    "gaussian_kl",
    "keep_whole",
    "linear",
    "measure_weights",
    "momentum_for",
    "mse_scale",
    "parameter_groups",
    "prepare",
    "quantized_weights",
    "quantizer_parameters",
    "record",
    "reestimate_batchnorm",
    "strip",
    "tune",
    "verify_onnx",
    "verify_ranks",
    "whole",
]


def __getattr__(name: str) -> Any:
    """Return the version, or a public name; the first public name imports all of them."""
    if name == "__version__":
        return import_module("importlib.metadata").version("quiesce")
    if name not in __all__:
        raise AttributeError(f"module 'quiesce' has no attribute {name!r}")
    public = import_module("quiesce.public")
    globals().update({each: getattr(public, each) for each in __all__})
    return globals()[name]


def __dir__() -> list[str]:
    special = [name for name in globals() if name.startswith("__")]
    return sorted({*special, *__all__, "__version__"})
