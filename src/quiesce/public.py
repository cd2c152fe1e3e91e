"""The public names of quiesce: `quiesce.NAME` is one of these."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from quiesce.arithmetic.estimators import DSQ as DSQ
from quiesce.arithmetic.estimators import EWGS as EWGS
from quiesce.arithmetic.estimators import PSG as PSG
from quiesce.arithmetic.estimators import QEMA as QEMA
from quiesce.arithmetic.estimators import STE as STE
from quiesce.arithmetic.estimators import Estimator as Estimator
from quiesce.arithmetic.estimators import Hysteresis as Hysteresis
from quiesce.arithmetic.estimators import StableQAT as StableQAT
from quiesce.arithmetic.estimators import StackedSigmoid as StackedSigmoid
from quiesce.arithmetic.estimators import StochasticRounding as StochasticRounding
from quiesce.arithmetic.fake_quantize import fake_quantize as fake_quantize
from quiesce.arithmetic.grid import Grid as Grid
from quiesce.arithmetic.ranges import mse_scale as mse_scale
from quiesce.cures import CGA as CGA
from quiesce.cures import OBR as OBR
from quiesce.cures import TRS as TRS
from quiesce.cures import BinRegularization as BinRegularization
from quiesce.cures import Cure as Cure
from quiesce.cures import Dampening as Dampening
from quiesce.cures import Freezing as Freezing
from quiesce.cures import OsciReset as OsciReset
from quiesce.cures import QRamping as QRamping
from quiesce.cures import Snap as Snap
from quiesce.cures.batchnorm_reestimation import gaussian_kl as gaussian_kl
from quiesce.cures.batchnorm_reestimation import reestimate_batchnorm as reestimate_batchnorm
from quiesce.cures.control import Control as Control
from quiesce.cures.verify_ranks import verify_ranks as verify_ranks
from quiesce.diagnosis.audit import audit as audit
from quiesce.diagnosis.record import record as record
from quiesce.errors import QuiesceError as QuiesceError
from quiesce.export import export_onnx as export_onnx
from quiesce.export import verify_onnx as verify_onnx
from quiesce.export.gguf.writing import export_gguf as export_gguf
from quiesce.health.watching import Watch as Watch
from quiesce.oscillation.distance_ratio import DistanceSampling as DistanceSampling
from quiesce.oscillation.layer_report import LayerReport as LayerReport
from quiesce.oscillation.momentum import momentum_for as momentum_for
from quiesce.oscillation.tracker import OscillationTracker as OscillationTracker
from quiesce.parallel.split_weights import whole as whole
from quiesce.quantization.calibrate import calibrate as calibrate
from quiesce.quantization.compile import compile as compile
from quiesce.quantization.describe import describe as describe
from quiesce.quantization.parameter_groups import parameter_groups as parameter_groups
from quiesce.quantization.prepare import keep_whole as keep_whole
from quiesce.quantization.prepare import measure_weights as measure_weights
from quiesce.quantization.prepare import prepare as prepare
from quiesce.quantization.prepare import quantized_weights as quantized_weights
from quiesce.quantization.prepare import quantizer_parameters as quantizer_parameters
from quiesce.quantization.prepare import strip as strip
from quiesce.quantization.quantized_weight import QuantizedWeight as QuantizedWeight
from quiesce.quantization.quantizer import FakeQuantizer as FakeQuantizer
from quiesce.quantization.scheme import Scheme as Scheme
from quiesce.quantization.weight_average import WeightAverage as WeightAverage
from quiesce.quantization.weight_average import copy_history as copy_history
from quiesce.schedules import constant as constant
from quiesce.schedules import cosine as cosine
from quiesce.schedules import linear as linear
from quiesce.stacks.adapter import Adapter as Adapter
from quiesce.stacks.adapter import WeightGrid as WeightGrid
from quiesce.stacks.attach import attach as attach
from quiesce.tuning.tune import tune as tune

if TYPE_CHECKING:
    from quiesce.export.targets.exporting import export as export
else:  # the package is callable, and its name may be bound before or after this module runs
    export = _import_module("quiesce.export")
