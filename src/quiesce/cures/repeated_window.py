"""Cures that measure in a window of steps and act on what they measured, again and again."""


def check_window(period: int, window: int, begin: int) -> None:
    """Check the steps of such a cure.

    Args:
        period: Optimizer steps from one window to the next.
        window: Optimizer steps of a measurement.
        begin: Optimizer steps before the first window.

    Raises:
        ValueError: One is out of range.
    """
    if window < 1 or period <= window:
        raise ValueError(
            f"period must be at least window + 1, and window at least 1 step, got period {period} "
            f"and window {window}"
        )
    if begin < 0:
        raise ValueError(f"begin must be 0 or more optimizer steps, got {begin}")
