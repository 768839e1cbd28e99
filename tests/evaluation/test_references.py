import numpy as np
import pytest

from landmark_challenge.errors import ChallengeError
from landmark_challenge.reference import write_reference
from landmark_evaluation.references import open_reference


@pytest.fixture
def raters(points):
    generator = np.random.default_rng(1)
    shifted = {name: points + generator.normal(0, 1, points.shape).round(1) for name in ("one", "two", "three")}
    shifted["two"][0, 1] = np.nan
    return shifted


@pytest.fixture
def data(kit, raters, tmp_path):
    task = kit.task(observers=("one", "two", "three"))
    subsets = {"case0": "left", "case1": "right"}
    return kit.dataset(
        tmp_path / "data", task, raters, subsets=subsets, not_assessed={"case2": ["a"]}, splits={"case5": "train"}
    )


@pytest.fixture(params=["dataset", "reference folder"])
def folder(request, data, tmp_path):
    if request.param == "reference folder":
        write_reference(data, tmp_path / "hidden", disclosure="open")
        return tmp_path / "hidden"
    return data.folder


def test_files_beside_the_observers_are_none(folder):
    (folder / "landmarks/.DS_Store").write_text("")
    assert open_reference(folder).observers == ("one", "three", "two")


def test_the_reference_is_the_mean_and_says_so(folder, raters):
    truth = open_reference(folder)
    assert [case.name for case in truth.cases] == ["case0", "case1", "case2", "case3", "case4"]
    assert np.allclose(truth.points_mm, np.mean(list(raters.values()), axis=0)[:5], equal_nan=True)
    assert np.isnan(truth.points_mm[0, 1]).all(), "a landmark that one rater did not see is absent"
    assert truth.assessed.sum() == 5 * 3 - 1 and not truth.assessed[2, 0]
    assert truth.rule == "mean of one, two, three"
    assert truth.observers == ("one", "three", "two")


def test_an_observer_may_take_its_place(folder, raters):
    truth = open_reference(folder, observer="two")
    assert np.array_equal(truth.points_mm, raters["two"][:5], equal_nan=True)
    assert truth.rule == "two"


def test_leaving_a_rater_out_leaves_the_mean_of_the_others(folder, raters):
    truth = open_reference(folder).leaving_out("two")
    assert np.allclose(truth.points_mm, (raters["one"] + raters["three"])[:5] / 2)
    assert (truth.rule, truth.left_out) == ("mean of one, three", "two")
    assert truth.declared_rule == "mean of one, two, three"


def test_a_subset_narrows_the_split(folder):
    assert [case.name for case in open_reference(folder, subset="right").cases] == ["case1"]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"subset": "up"}, "there are none"),
        ({"observer": "four"}, "wanted one of the observers"),
        ({"split": "validation"}, "validation"),
    ],
)
def test_a_choice_that_is_not_there_is_refused(folder, choice, message):
    with pytest.raises(ChallengeError, match=message):
        open_reference(folder, **choice)


def test_a_case_without_points_is_refused(folder):
    (folder / "landmarks" / "reference" / "case3.json").unlink()
    with pytest.raises(ChallengeError, match=r"case3\.json: wanted a JSON file"):
        open_reference(folder)


def test_any_other_folder_is_refused(tmp_path):
    with pytest.raises(ChallengeError, match="got neither"):
        open_reference(tmp_path)


def test_groups_come_with_a_dataset_and_with_a_reference_folder(kit, raters, tmp_path):
    task = kit.task(observers=("one", "two", "three"))
    groups = {"case0": "Jane Doe", "case2": "Jane Doe"}
    data = kit.dataset(tmp_path / "data", task, raters, groups=groups, splits={"case5": "train"})
    write_reference(data, tmp_path / "hidden")
    assert "Jane" not in (tmp_path / "hidden/reference.json").read_text()
    for folder in (data.folder, tmp_path / "hidden"):
        truth = open_reference(folder)
        assert truth.groups.tolist() == [0, 1, 0, 2, 3] and truth.n_groups == 4


def test_a_reference_folder_without_groups_has_cases_of_their_own(folder):
    truth = open_reference(folder)
    assert truth.groups.tolist() == [0, 1, 2, 3, 4] and truth.n_groups == 5
