"""What quiesce raises when a model, a file or the world is in the wrong state.

    QuiesceError              everything below; says what, where, and how to mend it
    ├── NothingToDoError      a model without such layers, an iterable without batches
    ├── PrepareError          a model that can not be given quantizers as asked
    ├── NotCalibratedError    a quantizer used before it has a scale
    ├── CompilerError         a compile mode that needs a compiler where there is none
    ├── TrackingError         tracker, cures and optimizer that do not fit together
    │   └── RanksPartError    processes that should hold the same weights and do not
    ├── FreezingError         freezing that would pin more of a layer than it may
    ├── DivergedError         a number that stopped being finite, by step and layer
    ├── RecipeError           a recipe, a run folder or a flag that can not be used
    ├── EngineError           a sweep that can not run where it should
    ├── DataError             a data set that can not be read or trained on
    ├── CheckpointError       a file of weights that is damaged, unsafe, or of another network
    ├── DiskFullError         a file for which there is no space
    ├── ExportError           a network that can not be exported, or a file that is none of ours
    │   └── MismatchError     an exported file that does not compute what the network computes
    └── MissingExtraError     an optional dependency that is missing; also an ImportError

A bad argument to a function is a `ValueError` or a `TypeError`, as everywhere in Python.
"""


class QuiesceError(Exception):
    """Root of all errors that quiesce raises itself."""


class NothingToDoError(QuiesceError):
    """The model has no layer of the kind, or the iterable no batch."""


class PrepareError(QuiesceError):
    """The model can not be given quantizers as the scheme asks."""


class NotCalibratedError(QuiesceError):
    """A quantizer was used before `quiesce.calibrate` gave it a scale."""


class CompilerError(QuiesceError):
    """The compile mode needs a compiler that this machine does not have."""


class TrackingError(QuiesceError):
    """Tracker, cures and optimizer do not fit together."""


class RanksPartError(TrackingError):
    """Processes that should hold the same weights do not; raised in all of them."""


class FreezingError(QuiesceError):
    """Freezing would pin more of a layer than it may."""


class DivergedError(QuiesceError):
    """Training left the finite numbers."""


class RecipeError(QuiesceError):
    """A recipe, a run folder or a flag can not be used."""


class EngineError(QuiesceError):
    """A sweep cannot run where it should: no such cluster, or no machine with these resources."""


class DataError(QuiesceError):
    """A data set can not be read or trained on."""


class CheckpointError(QuiesceError):
    """A file of weights is damaged, unsafe, or belongs to another network."""


class DiskFullError(QuiesceError):
    """There is no space for a file."""


class ExportError(QuiesceError):
    """The network can not be exported as asked, or a file is not what `export_onnx` wrote."""


class MismatchError(ExportError):
    """An exported file does not compute what the trained network computes."""


class MissingExtraError(QuiesceError, ImportError):
    """An optional dependency is missing; the message holds the `pip install` that brings it."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an extra: pip install 'quiesce[{extra}]'")
        self.extra = extra
