"""The section of a recipe that names an estimator."""

import pytest

from quiesce.errors import RecipeError
from quiesce.recipes.estimator_section import KINDS, READ_BY, EstimatorConfig
from quiesce.recipes.reading import read_recipe


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["kind=ewg"], "`scheme.estimator.kind` must be one of ste, ewgs.*did you mean 'ewgs'?"),
        (["kind=ewgs", "delta=3"], "scheme.estimator: `delta` must be 0 to below 2, got 3.0"),
        (["delta=0.3"], "`delta` is used by kind ewgs, and kind is ste"),
        (["kind=dsq", "width=0.5"], "`width` is used by kind hysteresis, and kind is dsq"),
        (["dleta=0.3"], "unknown field `scheme.estimator.dleta`; did you mean.*delta"),
    ],
)
def test_bad_estimators_are_refused_in_one_line(flags: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as refused:
        read_recipe("mnist_lsq_w3a3", [f"--scheme.estimator.{flag}" for flag in flags])
    assert "\n" not in str(refused.value)


def test_inputs_can_not_have_hysteresis() -> None:
    with pytest.raises(RecipeError, match="act_estimator must not need a history"):
        read_recipe("mnist_lsq_w3a3", ["--scheme.act_estimator.kind=hysteresis"])


def test_inputs_have_a_section_of_their_own(tmp_path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("version: 1\nscheme:\n  act_estimator: {kind: dsq, alpha: 0.3}\n")
    scheme = read_recipe(str(file)).scheme.scheme()
    assert (repr(scheme.act_estimator), repr(scheme.estimator)) == ("DSQ(alpha=0.3)", "STE()")


def test_every_number_belongs_to_a_kind_and_every_kind_can_be_made() -> None:
    assert set(READ_BY.values()) <= set(KINDS)
    for kind, made in KINDS.items():
        assert type(EstimatorConfig(kind=kind).estimator()) is made  # pyright: ignore
