"""Runs of any recipe that take seconds."""


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
