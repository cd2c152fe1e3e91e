"""A few numbers of a device, on their way to the host while it goes on queueing work."""

import torch
from torch import Tensor


class Deferred:
    """A copy of `values` that an accelerator makes when it gets there; nobody waits until `read`.

    Args:
        values: Of any shape; what happens to it later does not matter.
    """

    def __init__(self, values: Tensor) -> None:
        self._arrived = None
        self._values = values.detach()
        if values.device.type in ("cuda", "xpu"):  # elsewhere `read` waits for the copy itself
            self._values = torch.empty_like(values, device="cpu", pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.Event(values.device)
            self._arrived.record()

    def read(self) -> list[float]:
        """The numbers, flattened; waits for the device to have come to where they are made."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.flatten().tolist()
