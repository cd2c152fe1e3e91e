"""A callback for the Trainer of Transformers."""

from quiesce.integrations.huggingface.trainer_callback import (
    QuiesceTrainerCallback as QuiesceTrainerCallback,
)
