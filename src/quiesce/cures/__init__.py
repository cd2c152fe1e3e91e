"""The cures for oscillation, one per file, with a common interface.

A cure can add a term to the loss before the backward pass, and it can read and freeze codes after
the optimizer step. Only `Control` calls these two methods.
"""

from quiesce.cures.cure import Cure as Cure
from quiesce.cures.dampening import Dampening as Dampening
from quiesce.cures.freezing import Freezing as Freezing
