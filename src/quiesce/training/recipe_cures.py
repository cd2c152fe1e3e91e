"""Creates the cures of a recipe for a known number of optimizer steps."""

import quiesce as qs
from quiesce.recipes.cure_section import CureConfig
from quiesce.recipes.ramps import ramp


def make_cures(config: CureConfig, total: int) -> list[qs.Cure]:
    """Return the cures of a recipe, over `total` optimizer steps."""
    made = _cures(config, total)
    return [*made, qs.Snap(max_bits=config.max_bits)] if config.snap == "average" else made


def _cures(config: CureConfig, total: int) -> list[qs.Cure]:
    bits, target = config.max_bits, config.target
    if config.kind == "dampen" and target is not None:
        return [qs.Dampening(aggregation=config.aggregation, target=target, max_bits=bits)]
    if config.kind == "dampen":
        return [qs.Dampening(ramp(config.strength, total), aggregation=config.aggregation)]
    if config.kind == "freeze":
        average = "code" if config.average == "code" else None
        threshold = ramp(config.threshold, total) if target is None else None
        return [qs.Freezing(threshold, average, bits, config.max_frozen, target=target)]
    if config.kind == "trs":
        return [qs.TRS(ramp(config.transitions, total), config.eta, max_bits=bits)]
    begin = round(config.begin * total)
    if config.kind == "osci_reset":
        return [qs.OsciReset(config.ratio, config.period, config.window, begin, max_bits=bits)]
    if config.kind == "q_ramping":
        return [
            qs.QRamping(
                config.alpha,
                config.beta,
                period=config.period,
                window=config.window,
                begin=begin,
                max_bits=bits,
            )
        ]
    if config.kind == "cga":
        return [qs.CGA(config.boundary_range, begin, max_bits=bits)]
    return []
