"""Files changed at random: each is accepted, or refused in one line, and nothing else changes.

40 files in all, and 200 more that are slow. `make fuzz` tries QUIESCE_FUZZ times as many.
"""

import os
import warnings

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fuzz.kinds import KINDS
from fuzz.trying import Ground

LIGHT = {"recipe": 6, "sweep": 3, "json": 5, "csv": 4, "npz": 4, "pt": 4}
HEAVY = {"sweep.json": 2, "recipe of a run": 2, "recipe of a network": 2}
FILES = {**LIGHT, **HEAVY, "ckpt": 1, "resume": 3, "safetensors": 2, "onnx": 2}
"""Of each kind: the more the quicker its command is."""


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_changed_files_are_taken_or_refused_in_one_line(kind, times, tmp_path_factory):
    folder = tmp_path_factory.mktemp("around") / "inside"
    folder.mkdir()
    ground = Ground(KINDS[kind], folder)
    assert ground.sound()

    @settings(
        max_examples=FILES[kind] * times * int(os.environ.get("QUIESCE_FUZZ", "1")),
        deadline=None,
        database=None,
        derandomize=times == 1,  # `make test` tries the same files each time
        phases=[Phase.generate],  # a smaller seed is no simpler file
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(seed=st.integers(0, 2**32))
    def try_one(seed: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers that overflow on their way to a refusal
            ground.tried(seed)

    try_one()


def test_it_is_40_files_of_every_kind():
    assert FILES.keys() == KINDS.keys()
    assert sum(FILES.values()) == 40
