"""Other people's loops take quiesce with at most twelve changed lines, and then quantize."""

import difflib
import inspect
from collections.abc import Iterator
from importlib import import_module

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

import quiesce as qs

LIBRARIES = [
    "timm",
    pytest.param("torchvision", marks=pytest.mark.slow),
    "transformers",
    "accelerate",
]


def lines_of(name: str) -> list[str]:
    return inspect.getsource(import_module(f"integrations.loops.{name}")).splitlines()


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_loop_quantizes_after_few_changed_lines(library: str) -> None:
    plain, quantized = lines_of(f"plain_{library}"), lines_of(f"quantized_{library}")
    changed = [line for line in difflib.ndiff(plain, quantized) if line.startswith("+ ")]
    assert 0 < len([line for line in changed if line.strip(" +")]) <= 12
    torch.manual_seed(0)
    import_module(f"integrations.loops.plain_{library}").main()
    model = import_module(f"integrations.loops.quantized_{library}").main()
    weights = qs.quantized_weights(model)
    assert len(weights) > 2
    for weight in weights:
        assert len(weight.codes().unique()) > 1
        stripped = qs.strip(model).get_submodule(weight.name).weight
        assert torch.equal(stripped, weight.quantized())
