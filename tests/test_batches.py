"""What the model reads of a batch."""

import pytest
import torch

from quiesce.batches import inputs_of


def test_the_input_is_the_batch_or_its_first_entry() -> None:
    x, labels = torch.zeros(2, 3), torch.zeros(2)
    assert inputs_of(x) is x
    assert inputs_of((x, labels)) is x
    assert inputs_of([x]) is x


@pytest.mark.parametrize("batch", [{"x": torch.zeros(1)}, (), ["text"], 3])
def test_anything_else_is_refused(batch: object) -> None:
    with pytest.raises(TypeError, match="`batches` must yield tensors"):
        inputs_of(batch)  # type: ignore[arg-type]
