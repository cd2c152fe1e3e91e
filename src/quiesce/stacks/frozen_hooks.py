"""Hooks of layers of other toolkits that put frozen codes into the output: one for each layer."""

from weakref import WeakKeyDictionary

from torch import nn
from torch.utils.hooks import RemovableHandle

from quiesce.arithmetic import weight_history
from quiesce.errors import AttachError
from quiesce.stacks.site import FrozenOutput, Site

_HOOKS: WeakKeyDictionary[nn.Module, tuple[FrozenOutput, RemovableHandle]] = WeakKeyDictionary()
"""The output and the hook of the last `attach` of a layer."""


def install(site: Site, output: FrozenOutput) -> RemovableHandle | None:
    """Hook `output` to the layer of a site, in place of the hook of an earlier `attach`.

    Returns:
        The hook, or None if the stack needs none.

    Raises:
        AttachError: The layer has frozen weights of an earlier `attach`.
    """
    handle, earlier = site.on_output(output), _HOOKS.get(site.module)
    if earlier is not None:
        before, old = earlier
        if bool(weight_history.is_frozen(before.records, before.layout).any()):
            if handle is not None:
                handle.remove()
            raise AttachError(
                f"{site.name} is attached already and has frozen weights; use that list, or call "
                "its detach() first"
            )
        old.remove()
    if handle is not None:
        _HOOKS[site.module] = output, handle
    return handle


def remove(site: Site, handle: RemovableHandle) -> None:
    """Remove a result of `install`."""
    handle.remove()
    _HOOKS.pop(site.module, None)
