"""All generators go on where they were."""

import random

import numpy as np
import torch

from quiesce.training.resuming.random_states import (
    random_states,
    seed_all,
    set_random_states,
)
from support.states import through_a_file


def draw():
    return random.gauss(0, 1), float(np.random.standard_normal()), torch.rand(2).tolist()


def test_what_is_drawn_after_is_drawn_again():
    draw()  # an odd number of normal values: the second of a pair is kept in the state
    states = through_a_file(random_states())
    first = [draw() for _ in range(3)]
    set_random_states(states)
    assert [draw() for _ in range(3)] == first


def test_a_seed_is_for_all_of_them():
    seed_all(2**40 + 3)
    first = draw()
    seed_all(2**40 + 3)
    assert draw() == first
