"""quiesce: low-bit quantization-aware training whose weights come to rest.

The core imports torch and nothing else; `quiesce.lightning`, `quiesce.training` and `quiesce.cli`
need the extra "train".
"""

from quiesce.batchnorm import gaussian_kl as gaussian_kl
from quiesce.batchnorm import reestimate_batchnorm as reestimate_batchnorm
from quiesce.calibrate import calibrate as calibrate
from quiesce.compile import compile as compile
from quiesce.control import Control as Control
from quiesce.cures import Cure as Cure
from quiesce.cures import Dampening as Dampening
from quiesce.cures import Freezing as Freezing
from quiesce.distance import DistanceSampling as DistanceSampling
from quiesce.errors import QuiesceError as QuiesceError
from quiesce.estimators import STE as STE
from quiesce.estimators import Estimator as Estimator
from quiesce.export import export_onnx as export_onnx
from quiesce.export import verify_onnx as verify_onnx
from quiesce.fake_quantize import fake_quantize as fake_quantize
from quiesce.grid import Grid as Grid
from quiesce.prepare import prepare as prepare
from quiesce.prepare import quantized_weights as quantized_weights
from quiesce.prepare import quantizer_parameters as quantizer_parameters
from quiesce.prepare import strip as strip
from quiesce.quantizer import FakeQuantizer as FakeQuantizer
from quiesce.ranges import mse_scale as mse_scale
from quiesce.reports import LayerReport as LayerReport
from quiesce.schedules import constant as constant
from quiesce.schedules import cosine as cosine
from quiesce.schedules import linear as linear
from quiesce.scheme import Scheme as Scheme
from quiesce.tracking import OscillationTracker as OscillationTracker
from quiesce.weights import QuantizedWeight as QuantizedWeight

__all__ = [
    "STE",
    "Control",
    "Cure",
    "Dampening",
    "DistanceSampling",
    "Estimator",
    "FakeQuantizer",
    "Freezing",
    "Grid",
    "LayerReport",
    "OscillationTracker",
    "QuantizedWeight",
    "QuiesceError",
    "Scheme",
    "calibrate",
    "compile",
    "constant",
    "cosine",
    "export_onnx",
    "fake_quantize",
    "gaussian_kl",
    "linear",
    "mse_scale",
    "prepare",
    "quantized_weights",
    "quantizer_parameters",
    "reestimate_batchnorm",
    "strip",
    "verify_onnx",
]
