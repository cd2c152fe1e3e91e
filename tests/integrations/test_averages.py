"""Averages of weights, ours and others': they leave grids, records and frozen codes alone."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm.utils
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

import quiesce as qs
from quiesce.errors import NothingToDoError, PrepareError
from quiesce.integrations.lightning.quiesce_callback import QuiesceCallback
from quiesce.quantization.quantizer import FakeQuantizer
from support.loops import IMAGES, Loop
from support.small_networks import prepared_network, small_network, weights_only
from support.states import assert_same_state, through_a_file

STEPS = 60
DECAY = 0.9


def loop() -> Loop:
    torch.manual_seed(11)
    return Loop([qs.Freezing(0.3, max_frozen=None)], model=prepared_network(act_bits=3))


def torch_average(model: nn.Module) -> Any:
    return AveragedModel(model, avg_fn=get_ema_avg_fn(DECAY), use_buffers=True)


def torch_average_of_lists(model: nn.Module) -> Any:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY), use_buffers=True)


def torch_average_of_parameters(model: nn.Module) -> Any:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))


def timm_v3(model: nn.Module) -> Any:
    return timm.utils.ModelEmaV3(model, decay=DECAY)


def timm_v3_one_by_one(model: nn.Module) -> Any:
    return timm.utils.ModelEmaV3(model, decay=DECAY, foreach=False, device=torch.device("cpu"))


def timm_v3_of_parameters(model: nn.Module) -> Any:
    return timm.utils.ModelEmaV3(model, decay=DECAY, exclude_buffers=True)


def timm_v2(model: nn.Module) -> Any:
    return timm.utils.ModelEmaV2(model, decay=DECAY)


AVERAGES = [
    torch_average,
    torch_average_of_lists,
    torch_average_of_parameters,
    timm_v3,
    timm_v3_one_by_one,
    timm_v3_of_parameters,
    timm_v2,
]
QUICK = {torch_average, timm_v3}

every_average = pytest.mark.parametrize(
    "make", [pytest.param(x, marks=() if x in QUICK else pytest.mark.slow) for x in AVERAGES]
)


def averaged(make: Callable[[nn.Module], Any], of: Loop) -> Any:
    average = make(of.model)
    update = getattr(average, "update_parameters", None) or average.update
    for _ in range(STEPS):
        of.step()
        update(of.model)
    assert 0 < of.tracker.summary().frozen < 1
    return average


def integers(model: nn.Module) -> dict[str, Tensor]:
    """Limits and records, read where the forward reads them."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, FakeQuantizer):
            found |= {f"{name}.{key}": value.clone() for key, value in module._integers()}
    return found


@every_average
def test_no_average_reaches_grids_and_records(make: Callable[[nn.Module], Any]) -> None:
    run = loop()
    run.train(30)
    before = integers(run.model)
    average = averaged(make, run)
    assert_same_state(integers(average.module), before)
    frozen = [weight.frozen.sum() for weight in run.weights]
    assert sum(frozen) > 0


@every_average
def test_frozen_codes_of_an_average_are_those_of_the_model(
    make: Callable[[nn.Module], Any],
) -> None:
    run = loop()
    average = averaged(make, run)
    scales = [scale.detach().clone() for scale in qs.quantizer_parameters(average.module)]
    qs.copy_history(run.model, average.module)
    assert all(map(torch.equal, qs.quantizer_parameters(average.module), scales))
    check_average(run, average)


def check_average(run: Loop, average: Any) -> None:
    """Codes where frozen, nearest codes elsewhere; strip, export and state agree with them."""
    stripped = dict(qs.strip(average.module).named_modules())
    for mine, theirs in zip(run.weights, qs.quantized_weights(average.module), strict=True):
        assert torch.equal(theirs.frozen, mine.frozen)
        assert torch.equal(theirs.codes()[mine.frozen], mine.codes()[mine.frozen])
        nearest = torch.round(theirs.latent / theirs.scale)
        nearest = nearest.clamp(mine.grid.quant_min, mine.grid.quant_max)
        assert torch.equal(theirs.codes(), nearest.to(torch.int8))
        assert torch.equal(stripped[mine.name].weight, theirs.scale * theirs.codes())
        limits = theirs.limits.tolist()
        assert limits == [mine.grid.quant_min, mine.grid.quant_max]
    again = prepared_network(act_bits=3).eval()
    again.load_state_dict(through_a_file(dict(average.module.state_dict())))
    assert torch.equal(again(IMAGES), average.module.eval()(IMAGES))


def test_the_average_keeps_what_is_frozen_at_every_update() -> None:
    run = loop()
    average = qs.WeightAverage(run.model, DECAY)
    latents = [weight.latent.detach().clone() for weight in run.weights]
    scales = [scale.detach().clone() for scale in qs.quantizer_parameters(run.model)]
    for step in range(STEPS):
        run.step()
        average.update_parameters(run.model)
        decay = DECAY if step else 0.0
        for mine, theirs, latent in zip(
            run.weights, qs.quantized_weights(average.module), latents, strict=True
        ):
            latent.lerp_(mine.latent.detach(), 1 - decay)
            pinned = theirs.scale * mine.codes()
            latent.copy_(torch.where(mine.frozen, pinned, latent))
            assert torch.equal(theirs.latent, latent)
        for mine, theirs, scale in zip(
            qs.quantizer_parameters(run.model),
            qs.quantizer_parameters(average.module),
            scales,
            strict=True,
        ):
            scale.lerp_(mine.detach(), 1 - decay)
            assert torch.equal(theirs, scale)
        assert not average.module[1].training
    assert 0 < run.tracker.summary().frozen < 1
    check_average(run, average)
    statistics = average.module[1].running_mean, run.model[1].running_mean
    assert statistics[0].isfinite().all()


def test_the_average_does_not_disturb_the_run() -> None:
    watched, alone = loop(), loop()
    averaged(lambda model: qs.WeightAverage(model, DECAY), watched)
    alone.train(STEPS)
    assert_same_state(watched.state(), alone.state())


def test_an_average_goes_on_from_its_state() -> None:
    run = loop()
    whole = qs.WeightAverage(run.model, DECAY)
    for _ in range(20):
        run.step()
        whole.update_parameters(run.model)
    resumed = qs.WeightAverage(prepared_network(act_bits=3), DECAY)
    resumed.load_state_dict(through_a_file(dict(whole.state_dict())))
    copied = copy.deepcopy(whole)
    for _ in range(20):
        run.step()
        for average in whole, resumed, copied:
            average.update_parameters(run.model)
    assert_same_state(dict(resumed.state_dict()), dict(whole.state_dict()))
    assert_same_state(dict(copied.state_dict()), dict(whole.state_dict()))
    assert int(whole.n_averaged) == 40


def test_running_statistics_are_averaged_and_counts_are_copied() -> None:
    run = loop()
    run.model.train()
    average = qs.WeightAverage(run.model, 0.5)
    run.step()
    average.update_parameters(run.model)
    first = run.model[1].running_mean.clone()
    run.step()
    average.update_parameters(run.model)
    expected = first.lerp(run.model[1].running_mean, 0.5)
    assert torch.equal(average.module[1].running_mean, expected)
    assert average.module[1].num_batches_tracked == run.model[1].num_batches_tracked == 2
    qs.reestimate_batchnorm(average, [IMAGES])
    assert not torch.equal(average.module[1].running_mean, expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda model: qs.WeightAverage(model, DECAY),
        pytest.param(torch_average, marks=pytest.mark.slow),
        pytest.param(timm_v3, marks=pytest.mark.slow),
    ],
    ids=["quiesce", "torch", "timm"],
)
def test_an_average_is_stripped_exported_and_verified(
    make: Callable[[nn.Module], Any], tmp_path: Any
) -> None:
    average = averaged(make, loop())
    plain, inner = qs.strip(average), qs.strip(average.module)
    assert_same_state(dict(plain.state_dict()), dict(inner.state_dict()))
    path = tmp_path / "average.onnx"
    written = qs.export_onnx(average, path, IMAGES)
    assert written.verification is not None
    assert written.verification.passed
    assert qs.verify_onnx(average, path, [IMAGES]).passed


class Module(LightningModule):
    """A user's module, whose targets are noise."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.model = prepared_network()

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return (self.model(batch[0]) - batch[1]).square().mean()

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self.model(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.5)


@pytest.mark.filterwarnings(
    "ignore:The '.*_dataloader' does not have many workers", "ignore:.*treespec, LeafSpec.*"
)
def test_lightnings_average_reaches_no_record() -> None:
    def fit(*more: Any) -> list[qs.QuantizedWeight]:
        module = Module()
        noise = torch.Generator().manual_seed(3)
        data = TensorDataset(
            torch.rand(48, 3, 6, 6, generator=noise), 3 * torch.randn(48, 5, generator=noise)
        )
        quiesce = QuiesceCallback([qs.Freezing(0.15, max_frozen=None)], momentum=0.2)
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=3,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[quiesce, *more],
        )
        trainer.fit(module, DataLoader(data, 8), DataLoader(data, 8))
        return qs.quantized_weights(module)

    alone, averaged = fit(), fit(WeightAveraging(avg_fn=get_ema_avg_fn(DECAY)))
    assert any(weight.frozen.any() for weight in alone)
    for one, two in zip(alone, averaged, strict=True):
        assert torch.equal(two.history, one.history)
        assert torch.equal(two.limits, one.limits)
        assert torch.equal(two.codes()[two.frozen], one.codes()[one.frozen])
        assert not torch.equal(two.latent, one.latent)  # Lightning leaves the average in the model


def test_an_average_of_a_float_model_is_refused() -> None:
    with pytest.raises(NothingToDoError, match="prepare"):
        qs.WeightAverage(small_network())
    with pytest.raises(NothingToDoError, match="prepare"):
        qs.copy_history(prepared_network(), small_network())


def test_an_average_of_another_model_is_refused() -> None:
    average = qs.WeightAverage(prepared_network())
    with pytest.raises(PrepareError, match=r"0\.weight_quantizer"):
        average.update_parameters(prepared_network(weight_bits=4))
    with pytest.raises(PrepareError, match=r"0\.weight_quantizer"):
        average.update_parameters(small_network())


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_a_decay_that_averages_nothing_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay"):
        qs.WeightAverage(prepared_network(), decay)


def test_an_average_made_before_calibration_takes_the_grids_of_the_model() -> None:
    model = small_network()
    qs.prepare(model, weights_only(act_bits=3), IMAGES)
    average = qs.WeightAverage(model)
    qs.calibrate(model, [IMAGES])
    average.update_parameters(model)
    assert torch.equal(average(IMAGES), model.eval()(IMAGES))
