"""The callbacks for Lightning and Transformers, and recordings, with networks of other toolkits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import quiesce as qs
from quiesce.cli import main
from support.stacks import IMAGES, LABELS, WORLDS, World, brevitas_network, torchao_network

pytestmark = pytest.mark.filterwarnings("ignore")

COMPLETE = [each for each in WORLDS if each.name in ("brevitas-channel", "torchao-dynamic", "own")]


def test_the_callback_for_lightning(tmp_path: Path) -> None:
    pytest.importorskip("brevitas")
    import brevitas.quant
    from lightning.pytorch import LightningModule, Trainer
    from torch.utils.data import DataLoader, TensorDataset

    from quiesce.lightning import QuiesceCallback

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = brevitas_network(weight_quant=brevitas.quant.Int8WeightPerTensorFloat)

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)

    callback = QuiesceCallback([qs.Freezing(0.1, max_frozen=None)], momentum=0.2)
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False}
    options |= {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=6, callbacks=[callback], default_root_dir=tmp_path, **options)
    trainer.fit(Module(), DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4))
    assert callback.tracker.steps == 12
    assert callback.tracker.summary().total_grid_changes is not None
    assert callback.tracker.summary().total_oscillations > 0


def test_the_callback_for_transformers(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    from transformers import Trainer, TrainingArguments

    from quiesce.integrations.huggingface import QuiesceTrainerCallback

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = torchao_network()

        def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": cross_entropy(self.model(images), labels)}

    callback = QuiesceTrainerCallback([qs.Dampening(1e-3)])
    arguments = TrainingArguments(
        str(tmp_path), max_steps=4, use_cpu=True, report_to=[], disable_tqdm=True
    )
    data = [{"images": image, "labels": label} for image, label in zip(IMAGES, LABELS, strict=True)]
    Trainer(Module(), arguments, train_dataset=data, callbacks=[callback]).train()
    assert callback.tracker.steps == 4
    assert [weight.name for weight in callback.tracker.weights] == ["model.3", "model.5"]


def recorded(model: nn.Module, weights: list[qs.QuantizedWeight], folder: Path) -> dict[str, Any]:
    """What `quiesce.record` and `quiesce report` make of a training."""
    scales = {id(scale) for weight in weights for scale in weight.scale_parameters}
    others = [each for each in model.parameters() if id(each) not in scales]
    learned = [each for each in model.parameters() if id(each) in scales]
    groups = [{"params": others}, *([{"params": learned, "lr": 1e-5}] if learned else [])]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    tracker = qs.OscillationTracker(weights, momentum=0.2)
    control = qs.Control(optimizer, weights, tracker, [qs.Freezing(0.3, max_frozen=None)])
    with qs.record(control, folder, every=5) as recording:
        for _ in range(20):
            optimizer.zero_grad()
            loss = cross_entropy(model(IMAGES), LABELS)
            loss.backward()
            optimizer.step()
            recording.log(loss=loss, top1_percent=50.0)
    page = folder.with_suffix(".html")
    assert main(["report", str(folder), "-o", str(page)]) == 0
    text = page.read_text("utf-8")
    tree = json.loads((folder / "diagnosis.json").read_text("utf-8"))
    return {"headings": [part.split("<")[0] for part in text.split("<h2")[1:]], **tree}


@pytest.mark.parametrize("world", COMPLETE, ids=lambda world: world.name)
def test_a_recording_and_its_report_are_as_complete_as_ours(world: World, tmp_path: Path) -> None:
    if not world.installed:
        pytest.skip(f"{world.package} is not installed")
    model = world.build()
    theirs = recorded(model, world.attach(model), tmp_path / "theirs")
    torch.manual_seed(0)
    own = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.Flatten(), nn.Linear(200, 5))
    qs.prepare(own, qs.Scheme(weight_bits=3, act_bits=None, first_last_bits=None), IMAGES)
    ours = recorded(own, qs.quantized_weights(own), tmp_path / "ours")
    assert theirs["headings"] == ours["headings"]
    assert len(ours["headings"]) > 3
    assert theirs.keys() == ours.keys()
    for layer in theirs["layers"]:
        missing = {key for key, value in layer.items() if value is None}
        assert missing == set(), layer["name"]
        assert layer.keys() == ours["layers"][0].keys()
        assert sum(layer["codes"]["counts"]) == layer["weights"]
