import pytest
import torch
from torch.utils.data import DataLoader

from quiesce.data import DataConfig, build_data


@pytest.fixture(scope="module")
def digits() -> DataConfig:
    return DataConfig(name="mnist5k", batch_size=500)


def same(first: list, second: list) -> bool:
    return len(first) == len(second) and all(
        torch.equal(x, x2) and torch.equal(y, y2)
        for (x, y), (x2, y2) in zip(first, second, strict=True)
    )


def made_up(seed: int = 5, **fields) -> DataLoader:
    config = DataConfig(name="made_up", train_images=40, batch_size=8, image_size=8, **fields)
    return build_data(config, seed=seed).train


def test_augmented_images_do_not_depend_on_the_workers(digits: DataConfig) -> None:
    passes = []
    for workers in (0, 2):
        config = DataConfig(name="mnist5k", batch_size=500, workers=workers)
        loader = build_data(config, seed=5).train
        passes.append([batch for _ in range(2) for batch in loader])
    assert same(*passes)


def test_augmentation_differs_from_epoch_to_epoch(digits: DataConfig) -> None:
    images = build_data(digits, seed=5).train.dataset
    assert torch.equal(images[0, 7][0], images[0, 7][0])
    assert not torch.equal(images[0, 7][0], images[1, 7][0])


def test_a_plain_index_reads_the_image_with_the_global_generator(digits: DataConfig) -> None:
    images = build_data(digits, seed=5).train.dataset
    before = torch.get_rng_state()
    assert images[7][1] == images[0, 7][1]
    assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("taken", [0, 2, 4, 5])
def test_a_resumed_loader_goes_on_with_the_next_batch(taken: int, workers: int) -> None:
    whole = made_up()
    expected = [batch for _ in range(3) for batch in whole]  # three epochs of five batches

    stopped = made_up(workers=workers)
    list(stopped)  # epoch 0
    batches = iter(stopped)
    for _ in range(taken):
        next(batches)
    state = stopped.state_dict()

    resumed = made_up(workers=workers)
    resumed.load_state_dict(state)
    # a whole epoch taken is followed by the next one
    rest = [batch for _ in range(2 if taken < 5 else 1) for batch in resumed]
    assert same(rest, expected[5 + taken :])


def test_an_iteration_that_is_dropped_does_not_move_the_epoch() -> None:
    loader = made_up()
    first = next(iter(loader))
    assert same([next(iter(loader))], [first])


def test_an_epoch_that_was_cut_short_is_not_gone_on_with_in_the_next() -> None:
    whole = made_up()
    second = [batch for _ in range(2) for batch in whole][5:]

    stopped = made_up()
    batches = iter(stopped)
    next(batches)
    resumed = made_up()
    resumed.load_state_dict(stopped.state_dict())
    resumed.sampler.set_epoch(1)  # as the Trainer does when limit_train_batches ended epoch 0
    assert same(list(resumed), second)


def test_all_test_images_come_in_the_same_order_each_time() -> None:
    config = DataConfig(name="made_up", batch_size=8, test_images=20, test_batch_size=8)
    loader = build_data(config, seed=5).test
    first = list(loader)
    assert [len(labels) for _, labels in first] == [8, 8, 4]
    assert same(first, list(loader))
