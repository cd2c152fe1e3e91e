"""Recording in a plain loop: what is written when, and that training does not feel it."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import quiesce as qs
from quiesce.diagnosis import offset_histogram
from quiesce.errors import RecipeError
from quiesce.recipes.sections import RecordingConfig
from quiesce.training.recording.recorder import Recorder
from support.small_networks import prepared_network, small_network, weights_only
from support.states import assert_same_state

STEPS = 12
EVERYTHING = RecordingConfig(
    layers=4, histograms=3, batchnorm_every=5, trajectory_steps=3, trajectory_weights=2
)


class Board:
    """Notes what a SummaryWriter would be given."""

    def __init__(self):
        self.scalars, self.histograms = [], []

    def add_scalar(self, tag, value, step):
        self.scalars.append((tag, step, value))

    def add_histogram_raw(self, tag, **histogram):
        self.histograms.append((tag, SimpleNamespace(**histogram)))


def train(folder, config, *, network=None, batches=None, **options):
    """A plain loop with dropout and a GradScaler-like skipped call; gives network and control."""
    torch.manual_seed(5)
    network = prepared_network() if network is None else network
    network.insert(3, torch.nn.Dropout(0.2))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    weights = qs.quantized_weights(network)
    control = qs.Control(optimizer, weights, qs.OscillationTracker(weights, 0.1))
    data = [(torch.rand(6, 3, 6, 6), torch.arange(6) % 5) for _ in range(STEPS)]
    if config is not None:
        batches = data[:3] if batches is None else batches
        recorder = Recorder(
            folder, network, control, config, total=STEPS, batches=batches, **options
        )
    for images, labels in data:
        optimizer.zero_grad()
        cross_entropy(network(images), labels).backward()
        optimizer.step()
        if config is not None:
            recorder.step()
            recorder.step()  # accumulating gradients: nothing was stepped since
    if config is not None:
        recorder.close()
    return network, control


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_training_ends_on_the_same_bits_with_and_without(tmp_path):
    config = RecordingConfig(layers=STEPS, histograms=STEPS, batchnorm_every=1)
    recorded, watched = train(tmp_path, config, board=Board())
    numbers = torch.get_rng_state()
    plain, control = train(tmp_path, None)
    assert (tmp_path / "batchnorm.csv").exists()
    assert_same_state(dict(recorded.state_dict()), dict(plain.state_dict()))
    assert_same_state(watched.state_dict(), control.state_dict())
    assert torch.equal(torch.get_rng_state(), numbers)


def test_layers_are_recorded_at_evenly_spread_steps_up_to_the_last(tmp_path):
    train(tmp_path, EVERYTHING)
    found = rows(tmp_path / "layers.csv")
    assert list(found[0]) == [
        "step",
        "layer",
        "oscillating",
        "frozen",
        "flips_per_step",
        "transition_rate",
        "bits",
    ]
    assert [int(row["step"]) for row in found[::3]] == [3, 6, 9, 12]
    assert [row["layer"] for row in found[:3]] == ["0", "4", "7"]


def test_flips_are_those_since_the_row_before(tmp_path):
    _, control = train(tmp_path, EVERYTHING)
    found = rows(tmp_path / "layers.csv")
    for layer in control.tracker.report():
        per_step = [float(r["flips_per_step"]) for r in found if r["layer"] == layer.name]
        total = sum(3 * flips for flips in per_step)  # three steps between rows
        assert total > 0
        assert total == pytest.approx(layer.flips_per_step * (STEPS - 1))
        last = [row for row in found if row["layer"] == layer.name][-1]
        assert float(last["oscillating"]) == layer.oscillating
        assert float(last["transition_rate"]) == layer.transition_rate


def test_a_training_that_ends_early_is_recorded_up_to_its_end(tmp_path):
    config = RecordingConfig(layers=2)
    torch.manual_seed(5)
    network = prepared_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    weights = qs.quantized_weights(network)
    control = qs.Control(optimizer, weights, qs.OscillationTracker(weights))
    recorder = Recorder(tmp_path, network, control, config, total=10)
    for _ in range(7):
        optimizer.step()
        recorder.step()
    recorder.close()
    assert {row["step"] for row in rows(tmp_path / "layers.csv")} == {"5", "7"}


def test_batch_norm_is_measured_at_its_interval(tmp_path):
    network, _ = train(tmp_path, EVERYTHING)
    norms, losses = rows(tmp_path / "batchnorm.csv"), rows(tmp_path / "batchnorm_loss.csv")
    assert [(row["step"], row["layer"], row["kind"]) for row in norms] == [
        ("5", "1", "full"),
        ("10", "1", "full"),
    ]
    assert all(float(row["kl_max"]) >= float(row["kl_mean"]) > 0 for row in norms)
    assert [row["step"] for row in losses] == ["5", "10"]
    assert all(float(row["loss_running"]) != float(row["loss_reestimated"]) for row in losses)
    assert all(0 <= float(row["top1_running"]) <= 100 for row in losses)
    assert network.training


def test_a_network_without_batch_norm_is_recorded_without(tmp_path):
    network = small_network()
    network[1] = torch.nn.Identity()
    qs.prepare(network, weights_only(), torch.rand(1, 3, 6, 6))
    train(tmp_path, EVERYTHING, network=network)
    assert {path.name for path in tmp_path.iterdir()} == {"layers.csv", "trajectories.npz"}


def test_trajectories_are_of_the_last_steps(tmp_path):
    train(tmp_path, EVERYTHING)
    with np.load(tmp_path / "trajectories.npz") as found:
        assert found["steps"].tolist() == [10, 11, 12]
        assert str(found["layer"]) == "4"  # the depth-wise one
        assert {name: found[name].shape for name in found.files} == {
            "steps": (3,),
            "layer": (),
            "index": (2,),
            "scale": (3, 2),
            "latent": (3, 2),
            "code": (3, 2),
            "frequency": (3, 2),
            "quant_min": (),
            "quant_max": (),
        }
        codes = (found["latent"] / found["scale"]).round()
        clipped = codes.clip(found["quant_min"], found["quant_max"])
        assert np.array_equal(clipped, found["code"])


def test_layer_window_and_number_can_be_chosen(tmp_path):
    config = RecordingConfig(
        trajectory_layer="7", trajectory_begin=2, trajectory_steps=4, trajectory_weights=5
    )
    train(tmp_path, config)
    with np.load(tmp_path / "trajectories.npz") as found:
        assert found["steps"].tolist() == [3, 4, 5, 6]
        assert str(found["layer"]) == "7"
        assert found["index"].shape == (5,)


def test_what_is_not_asked_for_is_not_written(tmp_path):
    train(tmp_path, RecordingConfig(layers=0, histograms=0, trajectory_steps=0))
    assert not list(tmp_path.iterdir())


def test_other_processes_write_nothing(tmp_path):
    train(tmp_path, EVERYTHING, writes=False)
    assert not list(tmp_path.iterdir())


def test_the_board_gets_scalars_and_histograms(tmp_path):
    board = Board()
    _, control = train(tmp_path, EVERYTHING, board=board)
    assert {tag for tag, _, _ in board.scalars} == {
        *(f"oscillating/{name}" for name in "047"),
        "batchnorm_kl/1",
        *(f"batchnorm/{kind}_{how}" for kind in ("loss", "top1") for how in ("running",)),
        *(f"batchnorm/{kind}_reestimated" for kind in ("loss", "top1")),
    }
    steps = {histogram.global_step for _, histogram in board.histograms}
    assert steps == {4, 8, 12}
    tag, last = board.histograms[-1]
    expected = offset_histogram(control.weights[-1])
    assert tag == "offsets/7"
    assert last.bucket_counts == list(expected.counts)
    assert last.num == sum(expected.counts)


def test_a_prefix_is_taken_off_every_name(tmp_path):
    torch.manual_seed(0)
    network = torch.nn.ModuleDict({"network": prepared_network()})
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    weights = qs.quantized_weights(network)
    control = qs.Control(optimizer, weights, qs.OscillationTracker(weights))
    config = RecordingConfig(trajectory_layer="6", trajectory_begin=0)
    recorder = Recorder(tmp_path, network["network"], control, config, total=1, prefix="network.")
    optimizer.step()
    recorder.step()
    recorder.close()
    assert [row["layer"] for row in rows(tmp_path / "layers.csv")] == ["0", "3", "6"]
    with np.load(tmp_path / "trajectories.npz") as found:
        assert str(found["layer"]) == "6"


def test_a_layer_that_is_not_there_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(RecipeError, match=r"trajectory_layer: no quantized .* nearest is '\d'"):
        train(tmp_path, RecordingConfig(trajectory_layer="3.conv"))


@pytest.mark.parametrize(
    ("config", "total", "window"),
    [
        (RecordingConfig(), 1000, (701, 1000)),
        (RecordingConfig(), 100, (51, 350)),  # the second half
        (RecordingConfig(trajectory_begin=10, trajectory_steps=5), 1000, (11, 15)),
    ],
)
def test_the_window_of_trajectories(config, total, window):
    assert config.window(total) == window


@pytest.mark.parametrize(
    "bad",
    [
        {"layers": -1},
        {"histograms": -1},
        {"batchnorm_every": 0},
        {"batchnorm_batches": 0},
        {"trajectory_steps": -1},
        {"trajectory_begin": -1},
        {"trajectory_weights": 0},
    ],
)
def test_fields_out_of_range(bad):
    with pytest.raises(ValueError, match=f"`{next(iter(bad))}` must be"):
        RecordingConfig(**bad)
