"""What makes runs one group, and what they are called."""

import pytest

from quiesce.comparison.finished_runs import find_runs
from quiesce.comparison.groups import find_group, group_runs, refuse_mixed_data
from quiesce.errors import RecipeError


def groups_of(*folders):
    return group_runs(find_runs(folders).finished)


def test_seeds_of_one_recipe_are_a_group(make_run):
    one, other = groups_of(
        make_run("a", seed=0), make_run("b", name="freeze"), make_run("c", seed=1)
    )
    assert (one.label, sorted(one.runs)) == ("lsq", [0, 1])
    assert (other.label, sorted(other.runs)) == ("freeze", [0])


def test_a_label_holds_what_differs_under_its_shortest_name(make_run):
    def cure(start, end):
        return {"strength": {"start": start, "end": end}, "threshold": {"end": 0.1}}

    groups = groups_of(
        make_run("a", cure=cure(0, 0.1)),
        make_run("b", cure=cure(0, 0.2)),
        make_run("c", name="other", cure=cure(1, 0.3)),
    )
    assert [group.label for group in groups] == ["lsq end=0.1", "lsq end=0.2", "other"]
    assert [group.fields for group in groups] == [
        {"cure.strength.end": 0.1},
        {"cure.strength.end": 0.2},
        {},
    ]


def test_ends_that_two_fields_share_are_told_apart(make_run):
    groups = groups_of(
        make_run("a", weights={"lr": 1}, scales={"lr": 3}),
        make_run("b", weights={"lr": 2}, scales={"lr": 4}),
    )
    assert [group.label for group in groups] == [
        "lsq weights.lr=1 scales.lr=3",
        "lsq weights.lr=2 scales.lr=4",
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"run": "a"}, {"run": "b"}),
        ({"recording": {"every": 1}}, {}),
        ({"trainer": {"loggers": []}}, {"trainer": {"loggers": ["csv"]}}),
        ({"model": {"weights": "x/seed0/f.safetensors"}}, {"model": {"weights": "y.safetensors"}}),
    ],
)
def test_what_does_not_change_the_training_does_not_part_a_group(one, other, make_run):
    (group,) = groups_of(make_run("a", **one), make_run("b", seed=1, **other))
    assert sorted(group.runs) == [0, 1]


def test_the_kind_of_start_weights_does(make_run):
    groups = groups_of(
        make_run("a", model={"weights": "random"}), make_run("b", model={"weights": "f.pt"})
    )
    assert [group.label for group in groups] == ["lsq weights=random", "lsq weights=(a file)"]


def test_one_recipe_and_seed_twice_is_refused(make_run):
    with pytest.raises(RecipeError, match=r"a and .*b have the same recipe and seed 0"):
        groups_of(make_run("a"), make_run("b"))


def test_a_baseline_is_found_by_label_or_by_name(make_run):
    groups = groups_of(
        make_run("a", x=1),
        make_run("b", x=2),
        make_run("c", name="freeze"),
    )
    assert find_group(groups, "lsq x=2") is groups[1]
    assert find_group(groups, "freeze") is groups[2]
    with pytest.raises(RecipeError, match="is several recipes; name one of 'lsq x=1', 'lsq x=2'"):
        find_group(groups, "lsq")
    with pytest.raises(RecipeError, match="did you mean 'freeze'"):
        find_group(groups, "freze")
    with pytest.raises(RecipeError, match="recipes here: lsq x=1, lsq x=2, freeze"):
        find_group(groups, "zzz")


@pytest.mark.parametrize("data", [{"name": "cifar10"}, {"name": "mnist5k", "image_size": 64}])
def test_different_data_are_refused(data, make_run):
    runs = find_runs([make_run("a"), make_run("b", seed=1, data=data)]).finished
    with pytest.raises(RecipeError, match=r"runs of different data: data.\w+ is .*--mixed-data"):
        refuse_mixed_data(runs)


def test_one_folder_spelled_twice_is_the_same_data(make_run, tmp_path):
    (tmp_path / "x").mkdir()
    data = [{"name": "folder", "folder": str(tmp_path / each)} for each in ("y", "x/../y")]
    runs = [make_run("a", data=data[0]), make_run("b", seed=1, data={**data[1], "batch_size": 3})]
    refuse_mixed_data(find_runs(runs).finished)
