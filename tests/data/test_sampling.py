import pytest

from quiesce.data import sampling
from quiesce.data.sampling import EpochSampler, ShareSampler


def as_process(monkeypatch: pytest.MonkeyPatch, rank: int, of: int) -> None:
    monkeypatch.setattr(sampling, "rank", lambda: rank)
    monkeypatch.setattr(sampling, "world_size", lambda: of)


def test_each_epoch_has_every_image_once_in_an_order_of_its_own() -> None:
    sampler = EpochSampler(50, seed=3)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert [epoch for epoch, _ in first] == [0] * 50
    assert [epoch for epoch, _ in second] == [1] * 50
    assert sorted(index for _, index in first) == list(range(50))
    assert sorted(index for _, index in second) == list(range(50))
    assert [index for _, index in first] != [index for _, index in second]


def test_an_order_is_a_function_of_seed_and_epoch() -> None:
    assert list(EpochSampler(50, seed=3)) == list(EpochSampler(50, seed=3))
    assert list(EpochSampler(50, seed=4)) != list(EpochSampler(50, seed=3))


def test_skipped_images_are_left_out_once() -> None:
    sampler = EpochSampler(50, seed=3)
    whole = list(sampler)
    sampler.skip = 20
    assert list(sampler) == whole[20:]
    assert list(sampler) == whole


def test_processes_share_an_epoch_in_equal_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    for rank in range(3):
        as_process(monkeypatch, rank, of=3)
        sampler = EpochSampler(50, seed=3)
        shares.append({index for _, index in sampler})
        assert len(sampler) == 16 == len(shares[-1])
    assert len(set.union(*shares)) == 48  # none twice; the two left over differ in each epoch


def test_processes_test_every_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for rank in range(3):
        as_process(monkeypatch, rank, of=3)
        sampler = ShareSampler(50)
        assert len(list(sampler)) == len(sampler)
        seen += list(sampler)
    assert sorted(seen) == list(range(50))
