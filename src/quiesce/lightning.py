"""What Lightning users need, under its public names."""

from quiesce.integrations.lightning.quiesce_callback import QuiesceCallback as QuiesceCallback
from quiesce.integrations.lightning.quiesce_callback import penalty as penalty
from quiesce.integrations.lightning.watch_callback import WatchCallback as WatchCallback
