"""The exceptions of quiesce. Their messages say what is wrong, where, and what to do.

    QuiesceError              base class of all
    ├── NothingToDoError      the model has no such layer, or the iterable no batch
    ├── PrepareError          the model cannot get quantizers as the scheme asks
    ├── AttachError           the weights of another toolkit cannot be followed
    ├── NotCalibratedError    a quantizer was used before it had a scale
    ├── CompilerError         the compile mode needs a compiler, and there is none
    ├── TrackingError         tracker, cures and optimizer do not fit together
    │   └── RanksPartError    processes hold different weights
    ├── FreezingError         freezing would freeze more of a layer than allowed
    ├── DivergedError         a number is not finite; the message names step and layer
    ├── RecipeError           a recipe, a run folder or a flag cannot be used
    ├── EngineError           a sweep cannot run where it should
    ├── DataError             a data set cannot be read or trained on
    ├── CheckpointError       a file of weights is damaged, unsafe, or of another network
    ├── DiskFullError         there is no space for a file
    ├── ExportError           a network cannot be exported, or a file is not such an export
    │   └── MismatchError     an exported file does not compute what the network computes
    └── MissingExtraError     an optional dependency is missing; also an ImportError

A bad argument to a function raises `ValueError` or `TypeError`.
"""

from collections.abc import Iterable
from difflib import get_close_matches


def first_line(error: object) -> str:
    """Return the first line of an error's message, or the name of its type if it has none."""
    return str(error).strip().partition("\n")[0].rstrip(". ") or type(error).__name__


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Return a hint with the known name nearest to `word`, or None if none is near."""
    near = get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"did you mean {near[0]!r}?" if near else None


class QuiesceError(Exception):
    """Base class of the exceptions of quiesce.

    Examples:
        >>> try:
        ...     qs.quantized_weights(torch.nn.Linear(8, 4))
        ... except qs.QuiesceError as error:
        ...     type(error).__name__
        'NothingToDoError'
    """


class NothingToDoError(QuiesceError):
    """The model has no such layer, or the iterable no batch."""


class PrepareError(QuiesceError):
    """The model cannot get quantizers as the scheme asks."""


class AttachError(QuiesceError):
    """The quantized weights of another toolkit cannot be followed or audited."""


class NotCalibratedError(QuiesceError):
    """A quantizer was used before `quiesce.calibrate`, or its own toolkit, gave it a scale."""


class CompilerError(QuiesceError):
    """The compile mode needs a compiler that this machine does not have."""


class TrackingError(QuiesceError):
    """Tracker, cures and optimizer do not fit together."""


class RanksPartError(TrackingError):
    """Processes hold different weights; raised in all of them."""


class FreezingError(QuiesceError):
    """Freezing would freeze more of a layer than allowed."""


class DivergedError(QuiesceError):
    """A number is not finite."""


class RecipeError(QuiesceError):
    """A recipe, a run folder or a flag cannot be used."""


class EngineError(QuiesceError):
    """A sweep cannot run where it should: no such cluster, or no machine with these resources."""


class DataError(QuiesceError):
    """A data set cannot be read or trained on."""


class CheckpointError(QuiesceError):
    """A file of weights is damaged, unsafe, or belongs to another network."""


class DiskFullError(QuiesceError):
    """There is no space for a file."""


class ExportError(QuiesceError):
    """The network cannot be exported as asked, or a file is not what `export_onnx` wrote."""


class MismatchError(ExportError):
    """An exported file does not compute what the trained network computes."""


class MissingExtraError(QuiesceError, ImportError):
    """An optional dependency is missing; the message says how to install it."""

    def __init__(self, feature: str, extra: str, install: str | None = None) -> None:
        line = install or f"pip install 'quiesce[{extra}]'"
        super().__init__(f"{feature} needs an extra: {line}")
        self.extra = extra
