import math

import numpy as np
import pytest

from landmark_challenge.task import load_task, parse_task
from landmark_evaluation.clinical import ANALYSES, compare_classes, measure
from landmark_evaluation.pairing import read_submission
from landmark_evaluation.references import open_reference
from landmark_evaluation.scoring import evaluate_submission

NAMES = load_task("ceph-19").names


def face(**moved):
    """A schematic face that looks along +x, y down, in mm."""
    points = {
        "sella": (70, 60), "nasion": (140, 50), "orbitale": (130, 85), "porion": (50, 85),
        "subspinale": (138, 115), "supramentale": (133, 160), "pogonion": (133, 175), "menton": (125, 185),
        "gnathion": (130, 182), "gonion": (65, 155), "incision-inferius": (138, 135), "incision-superius": (141, 137),
        "upper-lip": (155, 130), "lower-lip": (152, 148), "subnasale": (150, 112), "soft-tissue-pogonion": (145, 175),
        "posterior-nasal-spine": (90, 108), "anterior-nasal-spine": (143, 110), "articulare": (60, 100),
    } | moved  # fmt: skip
    return np.array([[*points[name], 0.0] for name in NAMES])[None]


def corner(a, b, c):
    """Angle at b in degrees, by the law of cosines."""
    ab, bc, ac = math.dist(a, b), math.dist(b, c), math.dist(a, c)
    return math.degrees(math.acos((ab**2 + bc**2 - ac**2) / (2 * ab * bc)))


def test_angles_at_the_nasion_follow_the_law_of_cosines():
    found = measure(face(), NAMES)
    sna, snb = corner((70, 60), (140, 50), (138, 115)), corner((70, 60), (140, 50), (133, 160))
    assert found["sna"][0] == pytest.approx(sna)
    assert found["snb"][0] == pytest.approx(snb)
    assert found["anb"][0] == pytest.approx(sna - snb)


def test_an_own_version_with_fewer_landmarks_gets_the_analyses_that_it_can(tmp_path, kit):
    kept = ("sella", "nasion", "subspinale", "supramentale", "menton", "gonion")
    whole = load_task("ceph-19").model_dump(mode="json", exclude={"published"})
    whole["landmarks"] = [spec for spec in whole["landmarks"] if spec["name"] in kept]
    task = parse_task(whole, source="own")
    assert task.name == "ceph-19" and set(task.names) == set(kept)
    points = np.repeat(face()[:, [NAMES.index(name) for name in task.names]], 4, axis=0)
    observer = {task.reference.observers[0]: points, task.reference.observers[1]: points}
    data = kit.dataset(tmp_path / "data", task, observer)
    truth = open_reference(data.folder)
    kit.plain(tmp_path / "p", task, points + 0.01)
    aggregates = evaluate_submission(read_submission(tmp_path / "p", truth), truth, resamples=20).metrics.aggregates
    assert set(aggregates.clinical) == set(aggregates.confidence.clinical) == {"anb", "sna", "snb", "fhi"}
    assert all(row.success_classification_rate == 1 for row in aggregates.clinical.values())


def test_face_height_and_overjet():
    found = measure(face(), NAMES)
    assert found["fhi"][0] == pytest.approx(math.dist((70, 60), (65, 155)) / math.dist((140, 50), (125, 185)))
    assert found["mw"][0] == pytest.approx(math.hypot(3, 2))
    behind = measure(face(**{"incision-superius": (135, 137)}), NAMES)
    assert behind["mw"][0] == pytest.approx(-math.hypot(3, 2))


def test_the_palatal_plane_adds_where_it_dips_and_takes_where_it_rises():
    def slope(y):
        return math.degrees(math.atan2(y - 108, 143 - 90))

    level = measure(face(**{"anterior-nasal-spine": (143, 108)}), NAMES)
    for y in (112, 104):
        tilted = measure(face(**{"anterior-nasal-spine": (143, y)}), NAMES)
        assert tilted["odi"][0] - level["odi"][0] == pytest.approx(slope(y))
        assert tilted["apdi"][0] - level["apdi"][0] == pytest.approx(slope(y))


def test_apdi_of_parallel_planes_is_the_facial_angle():
    # Facial plane N-Pg straight down, A-B straight down, Frankfort and palatal plane level: 90 degrees.
    flat = face(
        **{
            "pogonion": (140, 175), "subspinale": (138, 115), "supramentale": (138, 160),
            "anterior-nasal-spine": (143, 108),
        }
    )  # fmt: skip
    assert measure(flat, NAMES)["apdi"][0] == pytest.approx(90.0)
    behind = flat.copy()
    behind[0, NAMES.index("supramentale"), 0] -= 10  # B behind A: the angle counts negative, class II
    assert measure(behind, NAMES)["apdi"][0] == pytest.approx(90 - math.degrees(math.atan2(10, 45)))


@pytest.mark.parametrize(("key", "value", "label"), [
    ("anb", 3.2, "class I"), ("anb", 3.19, "class III"), ("anb", 5.71, "class II"),
    ("snb", 74.5, "retrognathic mandible"), ("sna", 83.3, "prognathic maxilla"), ("odi", 80.6, "deep bite"),
    ("apdi", 77.5, "class II"), ("fhi", 0.76, "short face"), ("fha", 31.5, "high mandible angle"),
    ("mw", 4.5, "normal"), ("mw", 4.6, "large overjet"), ("mw", -0.1, "anterior cross bite"),
    ("mw", 1.9, "edge to edge"),
])  # fmt: skip
def test_classes_have_the_published_borders(key, value, label):
    analysis = ANALYSES[key]
    assert analysis.classes[analysis.classify(np.array([value]))[0]] == label


def test_success_is_the_share_of_cases_with_the_same_class():
    reference = np.concatenate([face(), face(), face()])
    submitted = reference.copy()
    submitted[0, NAMES.index("incision-superius"), 0] += 20  # another class
    submitted[1, NAMES.index("incision-superius")] = np.nan  # no class
    found = compare_classes(submitted, reference, names=NAMES)
    assert found["mw"]["success_classification_rate"] == pytest.approx(1 / 3)
    assert found["sna"]["success_classification_rate"] == 1.0
    assert found["sna"]["mean_absolute_difference"] == 0.0
    reference[2, NAMES.index("sella")] = np.nan
    assert compare_classes(submitted, reference, names=NAMES)["sna"]["n_cases"] == 2
