"""The one-weight regression: why a weight oscillates, and what each method does about it."""

from quiesce.toy.figure import page as page
from quiesce.toy.methods import METHODS as METHODS
from quiesce.toy.methods import SYMBOLS as SYMBOLS
from quiesce.toy.methods import Method as Method
from quiesce.toy.methods import Outcome as Outcome
from quiesce.toy.methods import try_method as try_method
from quiesce.toy.regression import Regression as Regression
from quiesce.toy.regression import freeze_latency as freeze_latency
from quiesce.toy.simulation import Trace as Trace
from quiesce.toy.simulation import simulate as simulate
