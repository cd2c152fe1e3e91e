"""Copies numbers from an accelerator without waiting for it."""

import torch
from torch import Tensor


class Deferred:
    """An asynchronous copy of `values` on the host; only `read` waits for it.

    Args:
        values: A tensor of any shape; later changes to it have no effect.
    """

    def __init__(self, values: Tensor) -> None:
        self._arrived = None
        self._values = values.detach()
        if values.device.type in ("cuda", "xpu"):  # on other devices `read` copies
            self._values = torch.empty_like(values, device="cpu", pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.Event(values.device)
            self._arrived.record()

    def read(self) -> list[float]:
        """Return the numbers, flattened; waits until they are copied."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.flatten().tolist()
