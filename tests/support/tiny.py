"""Runs of any recipe that take seconds."""

RECORDED = (
    "mnist_freeze_w3a3",
    "--trainer.max_steps=6",
    "--trainer.loggers=[csv,tensorboard]",
    "--recording.batchnorm_every=2",
    "--recording.batchnorm_batches=2",
)
"""A run for the fixture `trained`: with everything that a run can record."""

OSCILLATING = (
    "mnist_lsq_w3a3",
    "--trainer.max_steps=12",
    "--tracker.momentum=0.2",
    "--weights_optimizer.lr=0.2",
)
"""A run that ends with oscillating weights."""

FOUR_BITS = ("mnist_lsq_w4a4",)
"""A run of two steps."""


def flags() -> list[str]:
    """Flags that ask for tiny made-up images and two steps."""
    flags = {
        "compile": "off",
        "data.name": "made_up",
        "data.image_size": 16,
        "data.batch_size": 8,
        "data.train_images": 32,
        "data.test_images": 16,
        "data.workers": 0,
        "data.mean": "null",
        "data.std": "null",
        "float_stage.epochs": "null",
        "scheme.ranges": "minmax",  # the search for the least squared error takes its time
        "calibration.batches": 1,
        "batchnorm.batches": 2,
        "trainer.max_steps": 2,
        "trainer.accelerator": "cpu",
        "trainer.log_every_n_steps": 1,
        "trainer.loggers": "[csv]",
    }
    return [f"--{name}={value}" for name, value in flags.items()]
