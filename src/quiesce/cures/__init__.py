"""The cures for oscillation, one per file, with a common interface.

A cure acts on the loss, on the update of an optimizer step, on the weights after the step, or after
the last step. Only `Control` calls its methods.
"""

from quiesce.cures.bin_regularization import OBR as OBR
from quiesce.cures.bin_regularization import BinRegularization as BinRegularization
from quiesce.cures.confidence import CGA as CGA
from quiesce.cures.cure import Cure as Cure
from quiesce.cures.dampening import Dampening as Dampening
from quiesce.cures.freezing import Freezing as Freezing
from quiesce.cures.osci_reset import OsciReset as OsciReset
from quiesce.cures.q_ramping import QRamping as QRamping
from quiesce.cures.snap import Snap as Snap
from quiesce.cures.transition_rate import TRS as TRS
