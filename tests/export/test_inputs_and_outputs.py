"""Networks with several inputs, token inputs and outputs of any form: exported and verified."""

import logging
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import quiesce as qs
from quiesce.errors import ExportError, NothingToDoError
from quiesce.export.interface import example_of, output_tensors
from quiesce.export.program import export_program
from quiesce.inference import Input, call, inference

from .networks import images, mobile, shaken


def ready(model: nn.Module, example: Input, **scheme) -> nn.Module:
    """`model`, prepared and calibrated on one input.

    Not more than 7 bits: products of 8-bit numbers overflow on processors without VNNI.
    """
    bits = {"weight_bits": 4, "act_bits": 4, "first_last_bits": 7}
    qs.prepare(shaken(model), qs.Scheme(**{**bits, **scheme}), example)
    return qs.calibrate(model, [(example,)]).eval()


def numbers(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TwoInputs(nn.Module):
    """An image and a vector; three outputs of different kinds in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.beside = nn.Linear(5, 8)
        self.last = nn.Linear(8, 4)

    def forward(self, picture: Tensor, vector: Tensor, *, half: bool = False) -> dict[str, object]:
        x = self.body(self.stem(picture).relu()).relu().mean((2, 3)) + self.beside(vector)
        y = self.last(x.relu())
        return {"scores": y / 2 if half else y, "extra": [x], "best": y.argmax(1), "loss": None}


def two_inputs(count: int = 16) -> dict[str, object]:
    return {"picture": numbers(count, 3, 8, 8), "vector": numbers(count, 5, seed=4), "half": True}


def test_several_inputs_and_outputs_keep_their_names(tmp_path) -> None:
    network = ready(TwoInputs(), two_inputs())
    made = qs.export_onnx(network, tmp_path / "model.onnx", two_inputs())
    assert made.verification is not None
    assert made.verification.compare == "max_error"
    graph = onnx.load(made.path).graph
    assert [each.name for each in graph.input] == ["picture", "vector"]
    assert [each.name for each in graph.output] == ["scores", "extra.0", "best"]
    given = two_inputs(5)  # the batch dimension is open
    run = onnxruntime.InferenceSession(made.path)
    feed = {name: value.numpy() for name, value in given.items() if name != "half"}
    with torch.no_grad():
        expected = output_tensors(call(network, given))
    for ours, theirs in zip(expected.values(), run.run(None, feed), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-3, atol=1e-4)


BATCHES = {
    "by name": {"picture": numbers(64, 3, 8, 8), "vector": numbers(64, 5, seed=4), "half": True},
    "by place": ((numbers(64, 3, 8, 8), numbers(64, 5, seed=4)), torch.zeros(64)),
}


def test_verification_takes_batches_by_name_and_those_of_a_forward(tmp_path) -> None:
    network = ready(TwoInputs(), two_inputs())
    made = qs.export_onnx(network, tmp_path / "model.onnx", two_inputs(), verify=False)
    found = qs.verify_onnx(network, made.path, [two_inputs(40), (two_inputs(8), "label")])
    assert found.passed, found.verdict
    assert found.images == 48
    batch = {"a": numbers(24, 3, 8, 8), "b": numbers(24, 5)}
    forward = lambda model, given: model(given["a"], vector=given["b"], half=True)  # noqa: E731
    found = qs.verify_onnx(network, made.path, [batch], forward=forward)
    assert found.passed, found.verdict
    with pytest.raises(ExportError, match="picture is missing"):
        qs.verify_onnx(network, made.path, [{"picture": numbers(2, 3, 8, 8)}])
    with pytest.raises(ExportError, match="`forward` does not call TwoInputs"):
        qs.verify_onnx(network, made.path, [batch], forward=lambda model, given: None)


class Tokens(nn.Module):
    """Token ids and a mask in, a class for every token out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.first = nn.Linear(8, 16)
        self.last = nn.Linear(16, 6)

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(input_ids) * mask.unsqueeze(-1)
        return self.last(self.first(x).relu())


def tokens(count: int = 16, length: int = 7) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, 20, (count, length), generator=generator)
    return {"input_ids": ids, "mask": torch.ones(count, length, dtype=torch.int64)}


def test_token_ids_stay_integers_and_their_number_open(tmp_path) -> None:
    network = ready(Tokens(), tokens())
    made = qs.export_onnx(network, tmp_path / "model.onnx", tokens(), dynamic={1: "tokens"})
    assert made.verification is not None
    assert (made.verification.compare, made.verification.items) == ("top1", "tokens")
    inputs = {each.name: each.type.tensor_type for each in onnx.load(made.path).graph.input}
    assert inputs["input_ids"].elem_type == onnx.TensorProto.INT64
    assert [dim.dim_param for dim in inputs["mask"].shape.dim] == ["batch", "tokens"]
    ids = tokens(32, 11)
    batches = [(tokens(32, 5), ids["input_ids"][:, :5]), (ids, ids["input_ids"] % 6)]
    found = qs.verify_onnx(network, made.path, batches)
    assert found.passed, found.verdict
    assert (found.images, found.compared, found.labelled) == (64, 32 * 16, 32 * 16)


@pytest.mark.slow
def test_an_embedding_and_two_linear_layers(tmp_path) -> None:
    torch.manual_seed(0)
    ids = tokens(64)["input_ids"]
    network = ready(nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 4)), ids)
    made = qs.export_onnx(network, tmp_path / "model.onnx", ids)
    assert made.verification is not None
    assert made.verification.passed
    assert [each.name for each in onnx.load(made.path).graph.input] == ["input"]
    export_program(network, tmp_path / "model.pt2", ids)
    assert torch.export.load(tmp_path / "model.pt2").module()(ids).shape == (64, 7, 4)


def dense() -> nn.Module:
    """A map of 4 classes, of 16 x 16 pixels for images of that size."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(8, 4, 1),
    )


def test_a_map_of_classes_is_compared_pixel_by_pixel_at_any_size(tmp_path) -> None:
    torch.manual_seed(0)
    network = ready(dense(), numbers(16, 3, 16, 16))
    path = tmp_path / "model.onnx"
    open_size = {2: "height", 3: "width"}
    made = qs.export_onnx(network, path, numbers(16, 3, 16, 16), dynamic=open_size)
    found = made.verification
    assert found is not None
    assert (found.items, found.compared) == ("pixels", 16 * 16 * 16)
    larger = numbers(4, 3, 32, 24)
    labels = torch.zeros(4, 32, 24, dtype=torch.int64)
    fixed = qs.export_onnx(network, tmp_path / "fixed.onnx", numbers(4, 3, 16, 16), verify=False)
    with pytest.raises(ExportError, match="dynamic="):
        qs.verify_onnx(network, fixed.path, [larger])
    found = qs.verify_onnx(network, path, [(larger, labels), numbers(4, 3, 16, 16)])
    assert found.passed, found.verdict
    assert found.labelled == labels.numel()
    assert found.compared == labels.numel() + 4 * 16 * 16


@dataclass
class Output:
    logits: Tensor
    features: tuple[Tensor, ...]
    loss: Tensor | None = None


class Returning(nn.Module):
    """A network that returns what `wrap` makes of its logits."""

    def __init__(self, wrap) -> None:
        super().__init__()
        self.body = mobile()
        self.wrap = wrap

    def forward(self, x: Tensor):
        return self.wrap(self.body(x))


WRAPS = {
    "a tensor": (lambda y: y, ["logits"], "top1"),
    "a tuple of one": (lambda y: (y,), ["output.0"], "top1"),
    "a list": (lambda y: [y, 2 * y], ["output.0", "output.1"], "max_error"),
    "a dictionary": (lambda y: {"scores": y}, ["scores"], "top1"),
    "one tensor twice": (lambda y: {"logits": y, "again": y}, ["logits", "again"], "top1"),
    "a dataclass": (lambda y: Output(y, (2 * y,)), ["logits", "features.0"], "top1"),
    "one value": (lambda y: y[:, :1], ["logits"], "max_error"),
}


MORE_WRAPS = {
    "a tensor",
    "a dictionary",
    "one value",
    "a tuple of one",
    "a list",
    "one tensor twice",
}


@pytest.mark.parametrize(
    "wrap",
    [pytest.param(wrap, marks=pytest.mark.slow if wrap in MORE_WRAPS else ()) for wrap in WRAPS],
)
def test_what_a_network_returns(wrap, tmp_path) -> None:
    how, names, compare = WRAPS[wrap]
    network = ready(Returning(how), images())
    made = qs.export_onnx(network, tmp_path / "model.onnx", images())
    assert made.verification is not None
    assert made.verification.compare == compare
    assert [each.name for each in onnx.load(made.path).graph.output] == names


@pytest.mark.slow
def test_outputs_compared_by_a_function_of_the_user(tmp_path) -> None:
    network = ready(Returning(lambda y: {"a": y, "b": y.exp()}), images())
    seen = []

    def same_sign(ours, theirs) -> float:
        seen.append((sorted(ours), sorted(theirs)))
        return float(((ours["a"] > 0) == (theirs["a"] > 0)).mean())

    made = qs.export_onnx(network, tmp_path / "model.onnx", images(), compare=same_sign)
    assert made.verification is not None
    assert made.verification.compare == "same_sign"
    assert made.verification.agree == len(images())
    assert seen == [(["a", "b"], ["a", "b"])]

    def never(ours, theirs) -> float:
        return 0.0

    with pytest.raises(ExportError, match="all 5 layers equal; never agrees on 0 of 16"):
        qs.export_onnx(network, tmp_path / "other.onnx", images(), compare=never)
    with pytest.raises(ValueError, match=r"0 to 1, got 16"):
        qs.verify_onnx(network, made.path, [images()], compare=lambda ours, theirs: 16)
    with pytest.raises(ValueError, match=r"`compare` must be .* got 'top5'"):
        qs.verify_onnx(network, made.path, [images()], compare="top5")
    with pytest.raises(ValueError, match="needs one output with classes"):
        qs.verify_onnx(network, made.path, [images()], compare="top1")


REFUSED = {
    "a number": (lambda y: {"y": y, "n": 3}, "int as 'n'"),
    "an object": (lambda y: object(), "returns a object"),
    "nothing": (lambda y: None, "no tensor"),
}


@pytest.mark.parametrize("wrap", REFUSED)
def test_what_no_file_can_hold_is_refused_before_tracing(wrap, tmp_path, monkeypatch) -> None:
    how, what = REFUSED[wrap]
    network = ready(Returning(how), images())
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: pytest.fail("it was traced"))
    with pytest.raises(ExportError, match=what):
        qs.export_onnx(network, tmp_path / "model.onnx", images())


def test_a_layer_that_is_not_called_is_named_before_tracing(tmp_path, monkeypatch) -> None:
    network = ready(mobile(), images())
    network.forward = lambda x: network[0](x)
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: pytest.fail("it was traced"))
    with pytest.raises(NothingToDoError, match=r"3\.body\.0 is on no path"):
        qs.export_onnx(network, tmp_path / "model.onnx", images())


def test_an_input_that_the_network_can_not_take_is_one_line(tmp_path) -> None:
    network = ready(mobile(), images())
    with pytest.raises(ExportError, match="does not run on `example_input`") as raised:
        qs.export_onnx(network, tmp_path / "model.onnx", numbers(2, 5, 12, 12))
    assert "\n" not in str(raised.value)


class Moody(nn.Module):
    """What it computes depends on the values of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mobile()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) if x.sum() > 0 else self.body(-x)


@pytest.mark.parametrize("export", [qs.export_onnx, export_program])
def test_the_text_of_torch_is_in_the_log_and_not_in_the_traceback(export, tmp_path, caplog) -> None:
    network = ready(Moody(), images())
    with (
        caplog.at_level(logging.DEBUG, logger="quiesce"),
        pytest.raises(ExportError, match="Moody cannot be exported: ") as raised,
    ):
        export(network, tmp_path / "model", images())
    assert len(str(raised.value)) < 600
    assert raised.value.__suppress_context__
    assert any(record.exc_info for record in caplog.records)


@pytest.mark.slow
def test_a_program_takes_what_the_model_takes(tmp_path) -> None:
    network = ready(TwoInputs(), two_inputs())
    export_program(network, tmp_path / "model.pt2", two_inputs())
    made = torch.export.load(tmp_path / "model.pt2").module()(**two_inputs(5))
    with inference(network), torch.no_grad():
        assert torch.equal(made["scores"], network(**two_inputs(5))["scores"])
    plain = ready(dense(), numbers(2, 3, 16, 16))
    export_program(
        plain, tmp_path / "dense.pt2", numbers(2, 3, 16, 16), dynamic={2: "height", 3: "width"}
    )
    larger = numbers(3, 3, 20, 28)
    with torch.no_grad():
        assert torch.equal(
            torch.export.load(tmp_path / "dense.pt2").module()(larger), plain(larger)
        )


def test_names_and_batches_of_inputs() -> None:
    both = example_of(TwoInputs(), (numbers(4, 3, 8, 8), numbers(4, 5)))
    assert list(both.tensors) == ["picture", "vector"]
    assert (both.size, both.batched) == (4, {"picture", "vector"})
    assert both.rows(1, 3).tensors["vector"].shape == (2, 5)
    table = example_of(TwoInputs(), (numbers(4, 3, 8, 8), numbers(5)))
    assert table.batched == {"picture"}
    listed = example_of(nn.Identity(), [numbers(3, 8, 8), numbers(3, 9, 8)])
    assert (listed.size, listed.batched) == (1, frozenset())
