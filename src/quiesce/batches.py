"""What a model reads of a batch, in one place for all that run it on batches of the user."""

from collections.abc import Sequence

from torch import Tensor


def inputs_of(batch: Tensor | Sequence[Tensor]) -> Tensor:
    """Return the input of `batch`.

    Args:
        batch: The input itself, shape (batch, ...), or a tuple or list whose first entry it is, as
            data loaders yield.

    Returns:
        The input, as it is: neither copied nor moved to another device.

    Raises:
        TypeError: `batch` is neither.
    """
    if isinstance(batch, list | tuple) and batch:
        batch = batch[0]
    if not isinstance(batch, Tensor):
        raise TypeError(
            "`batches` must yield tensors, or tuples that start with one, "
            f"got {type(batch).__name__}"
        )
    return batch
