"""How rounding is done forward, and what gradient it is given backward: one interface.

Most members round to nearest and differ in the gradient they put in place of rounding's own, which
is zero almost everywhere. Two keep the straight-through gradient and round otherwise.
docs/methods.md says which of them can stop an oscillation (none) and which law each obeys.
"""

from quiesce.arithmetic.estimators.estimator import Estimator as Estimator
from quiesce.arithmetic.estimators.ewgs import EWGS as EWGS
from quiesce.arithmetic.estimators.hysteresis import Hysteresis as Hysteresis
from quiesce.arithmetic.estimators.psg import PSG as PSG
from quiesce.arithmetic.estimators.sigmoids import DSQ as DSQ
from quiesce.arithmetic.estimators.sigmoids import StackedSigmoid as StackedSigmoid
from quiesce.arithmetic.estimators.stableqat import StableQAT as StableQAT
from quiesce.arithmetic.estimators.ste import STE as STE
from quiesce.arithmetic.estimators.stochastic import StochasticRounding as StochasticRounding
