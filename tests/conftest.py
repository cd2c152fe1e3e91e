"""What every test starts from."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed torch alike before each test, whatever the order they run in."""
    torch.manual_seed(0)
