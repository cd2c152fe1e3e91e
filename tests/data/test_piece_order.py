from itertools import pairwise

import pytest
import torch

from quiesce.data.piece_order import WINDOW, PieceOrder, in_turn
from quiesce.errors import DataError
from support.messages import tells

SIZES = (5, 8, 3, 9, 7, 6, 4, 8, 5, 9, 6, 7)  # 77 images, more pieces than a window


def order(*, batch_size: int = 4, workers: int = 0, files: int = 12) -> PieceOrder:
    return PieceOrder(
        name="shards", files=files, sizes=SIZES, batch_size=batch_size, workers=workers
    )


def drawn(made: PieceOrder, *, seed: int = 1, rank: int = 0, processes: int = 1) -> list[int]:
    return made(torch.Generator().manual_seed(seed), rank, processes).tolist()


def test_it_has_every_image_once_and_depends_on_the_generator() -> None:
    first = drawn(order())
    assert sorted(first) == list(range(sum(SIZES)))
    assert drawn(order()) == first
    assert drawn(order(), seed=2) != first


@pytest.mark.parametrize("workers", [0, 3])
def test_processes_have_equal_shares_of_different_images(workers: int) -> None:
    shares = [drawn(order(workers=workers), rank=rank, processes=3) for rank in range(3)]
    assert [len(share) for share in shares] == [25] * 3
    assert len({index for share in shares for index in share}) == 75


def test_images_of_a_window_of_pieces_are_mixed() -> None:
    begins = torch.tensor(SIZES).cumsum(0)
    pieces = torch.searchsorted(begins, torch.tensor(drawn(order())), right=True).tolist()
    changes = sum(one != other for one, other in pairwise(pieces))
    assert changes > len(SIZES) * 3  # and not piece after piece
    first = set(pieces[: sum(SIZES[piece] for piece in set(pieces[:1]))])
    assert 1 < len(first) <= WINDOW


def test_batches_of_a_worker_are_a_contiguous_part() -> None:
    turns = in_turn(torch.arange(27), 4, 3)
    batches = turns[:24].view(6, 4)
    assert batches[0::3].flatten().tolist() == list(range(0, 8))
    assert batches[1::3].flatten().tolist() == list(range(8, 16))
    assert batches[2::3].flatten().tolist() == list(range(16, 24))
    assert turns[24:].tolist() == [24, 25, 26]


@pytest.mark.parametrize(("images", "workers"), [(27, 4), (3, 2), (20, 8), (16, 0)])
def test_every_image_has_its_turn(images: int, workers: int) -> None:
    assert sorted(in_turn(torch.arange(images), 4, workers).tolist()) == list(range(images))


def test_the_number_of_workers_changes_the_order_and_no_image() -> None:
    assert drawn(order(workers=3)) != drawn(order())
    assert sorted(drawn(order(workers=3))) == sorted(drawn(order()))


def test_fewer_files_than_workers_of_all_processes_are_refused() -> None:
    assert drawn(order(workers=3, files=6), processes=2)
    with pytest.raises(DataError) as raised:
        drawn(order(workers=3, files=5), processes=2)
    assert tells(str(raised.value), "5 shards", "6 readers", "data.workers 3", "processes 2")
