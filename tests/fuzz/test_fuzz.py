"""200 files changed at random: each is accepted, or refused in one line, and nothing else changes.

`make fuzz` tries QUIESCE_FUZZ times as many.
"""

import os
import warnings

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fuzz.kinds import KINDS
from fuzz.trying import Ground

LIGHT = {"recipe": 28, "sweep": 15, "json": 25, "csv": 20, "npz": 20, "pt": 22}
HEAVY = {"sweep.json": 10, "recipe of a run": 10, "recipe of a network": 10}
FILES = {**LIGHT, **HEAVY, "ckpt": 7, "resume": 15, "safetensors": 8, "onnx": 10}
"""Of each kind: the more the quicker its command is."""


@pytest.mark.parametrize("kind", KINDS)
def test_changed_files_are_taken_or_refused_in_one_line(kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("around") / "inside"
    folder.mkdir()
    ground = Ground(KINDS[kind], folder)
    assert ground.sound()

    @settings(
        max_examples=FILES[kind] * int(os.environ.get("QUIESCE_FUZZ", "1")),
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a smaller seed is no simpler file
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(seed=st.integers(0, 2**32))
    def try_one(seed: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers that overflow on their way to a refusal
            ground.tried(seed)

    try_one()


def test_it_is_200_files():
    assert FILES.keys() == KINDS.keys()
    assert sum(FILES.values()) == 200
