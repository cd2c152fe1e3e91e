"""What weights that oscillate at the end of a run become, and what its summary says of it."""

import pytest

import quiesce as qs
from quiesce.after_training.restored import restore
from quiesce.recipes.reading import read_recipe
from quiesce.training.run import run

MOVING = ["--tracker.momentum=0.2", "--weights_optimizer.lr=0.2", "--trainer.max_steps=8"]


@pytest.fixture
def ran(tiny_run):
    """Summary and folder of a short run in which weights oscillate."""

    def run_with(recipe, *flags):
        read = read_recipe(recipe, [*tiny_run, *MOVING, *flags])
        return run(read), read.folder

    return run_with


def test_without_snap_they_oscillate_to_the_end(ran):
    summary, _ = ran("mnist_lsq_w3a3")
    assert summary["oscillation"]["low_bit"]["oscillating"] > 0.001
    assert summary["cures"] == []


def test_snap_gives_them_their_most_frequent_code(ran):
    summary, _ = ran("mnist_lsq_w3a3", "--cure.snap=average")
    (did,) = summary["cures"]
    low = summary["oscillation"]["low_bit"]
    assert did == {"cure": "Snap", "snapped": round(low["frozen"] * low["weights"])}
    assert did["snapped"] > 0


def test_snap_may_learn_the_codes_from_the_loss(ran):
    flags = ("--cure.snap=learned", "--cure.snap_steps=3", "--cure.snap_batches=2")
    summary, folder = ran("mnist_trs_w3a3", *flags)
    trs, learned = summary["cures"]
    assert trs["cure"] == "TRS"
    assert learned["cure"] == "learned codes"
    low = summary["oscillation"]["low_bit"]
    assert learned["weights"] == round(low["frozen"] * low["weights"]) > 0
    assert 0 <= learned["changed"] <= learned["weights"]
    network = restore(folder).network
    frozen = sum(int(weight.frozen.sum()) for weight in qs.quantized_weights(network))
    assert frozen == learned["weights"]
