"""The cures: one interface, one file each.

A cure acts at two moments: it may add a term to the loss before the backward pass, and it may read
and pin codes after the optimizer step. `Control` calls both; nothing else does.
"""

from quiesce.cures.cure import Cure as Cure
from quiesce.cures.dampening import Dampening as Dampening
from quiesce.cures.freezing import Freezing as Freezing
