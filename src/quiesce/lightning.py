"""The callbacks for Lightning, under their public names."""

from quiesce.integrations.lightning.quiesce_callback import QuiesceCallback as QuiesceCallback
from quiesce.integrations.lightning.watch_callback import WatchCallback as WatchCallback
