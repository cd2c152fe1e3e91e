"""Creates the schedules of a recipe for a known number of optimizer steps."""

from collections.abc import Callable

from quiesce.recipes.sections import LrScheduleConfig, RampConfig
from quiesce.schedules import Schedule, constant, cosine, linear


def ramp(config: RampConfig, total: int) -> Schedule:
    """Return the schedule of `config` over `total` optimizer steps."""
    if config.schedule == "constant":
        return constant(config.start)
    shape = linear if config.schedule == "linear" else cosine
    return shape(config.start, config.end, total, config.begin)


def learning_rate_factor(config: LrScheduleConfig, total: int) -> Callable[[int], float]:
    """Return a function from optimizer step to the factor on the initial learning rate."""
    end = 1.0 if config.kind == "constant" else config.end
    shape = linear if config.kind == "linear" else cosine
    way_down = shape(1.0, end, total, config.warmup)
    rising = config.warmup * total

    def factor(step: int) -> float:
        return (step + 1) / (rising + 1) if step < rising else way_down(step)

    return factor
