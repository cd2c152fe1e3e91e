"""Estimators: the rounding of the forward pass and its gradient in the backward pass.

Most of them round to nearest and replace the gradient of rounding, which is zero almost everywhere.
Three use the straight-through gradient with a different rounding. docs/methods.md describes the law
of each. No estimator stops an oscillation.
"""

from quiesce.arithmetic.estimators.estimator import Estimator as Estimator
from quiesce.arithmetic.estimators.ewgs import EWGS as EWGS
from quiesce.arithmetic.estimators.hysteresis import Hysteresis as Hysteresis
from quiesce.arithmetic.estimators.psg import PSG as PSG
from quiesce.arithmetic.estimators.q_ema import QEMA as QEMA
from quiesce.arithmetic.estimators.sigmoids import DSQ as DSQ
from quiesce.arithmetic.estimators.sigmoids import StackedSigmoid as StackedSigmoid
from quiesce.arithmetic.estimators.stableqat import StableQAT as StableQAT
from quiesce.arithmetic.estimators.ste import STE as STE
from quiesce.arithmetic.estimators.stochastic import StochasticRounding as StochasticRounding
