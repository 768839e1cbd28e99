"""Points in and out of the platform's JSON."""

import json
import math

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from landmark_challenge.errors import ChallengeError
from landmark_challenge.files import parse_json
from landmark_challenge.landmarks import (
    Landmarks,
    from_platform_json,
    read_landmarks,
    to_platform_json,
    write_landmarks,
)

# The platform's draft-07 schema of the kind "Multiple points", written from its documentation.
VERSION = {
    "type": "object",
    "properties": {"major": {"type": "number"}, "minor": {"type": "number"}},
    "required": ["major", "minor"],
    "additionalProperties": False,
}
PLATFORM_SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "version": VERSION,
        "name": {"type": "string"},
        "type": {"enum": ["Multiple points"]},
        "points": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "type": {"enum": ["Point"]},
                    "point": {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3},
                    "probability": {"type": "number", "minimum": 0, "maximum": 1},
                },
                "required": ["point"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["version", "type", "points"],
    "additionalProperties": False,
}

coordinates = st.floats(-1e6, 1e6)
points = st.tuples(coordinates, coordinates, coordinates)
names = st.text(min_size=1, max_size=20).filter(lambda text: text.encode("utf-8", "ignore").decode() == text)


@st.composite
def landmark_sets(draw) -> Landmarks:
    chosen = draw(st.lists(names, unique=True, max_size=12))
    return Landmarks(
        chosen,
        draw(st.lists(points, min_size=len(chosen), max_size=len(chosen))),
        draw(st.lists(st.floats(0, 1), min_size=len(chosen), max_size=len(chosen))),
    )


@given(landmark_sets())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_landmarks_survive_the_round_trip_to_the_bit(tmp_path, landmarks) -> None:
    write_landmarks(tmp_path / "a.json", landmarks)
    assert read_landmarks(tmp_path / "a.json") == landmarks


@given(landmark_sets())
def test_what_is_written_is_what_the_platform_accepts(landmarks) -> None:
    jsonschema.validate(to_platform_json(landmarks), PLATFORM_SCHEMA, cls=jsonschema.Draft7Validator)


@given(st.binary(max_size=300))
def test_any_bytes_give_landmarks_or_a_challenge_error(content) -> None:
    try:
        assert isinstance(from_platform_json(parse_json(content, source="x"), source="x"), Landmarks)
    except ChallengeError as error:
        assert str(error).startswith("x")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("Multiple points"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "type", "points", "point", "version", "major", "probability", "x"]), inner
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_gives_landmarks_or_one_line(value) -> None:
    try:
        from_platform_json(value, source="x")
    except ChallengeError as error:
        assert "\n" not in str(error) and len(str(error)) < 400


@given(json_values, st.sampled_from(["points", "version", "name", "type"]))
def test_one_wrong_part_is_refused_or_harmless(value, key) -> None:
    whole = {**to_platform_json(Landmarks(["a"], [[1, 2, 3]])), key: value}
    try:
        from_platform_json(whole, source="x")
    except ChallengeError:
        return
    jsonschema.validate(whole, PLATFORM_SCHEMA, cls=jsonschema.Draft7Validator)


def document(**changes) -> dict:
    return {**to_platform_json(Landmarks(["sella", "nasion"], [[1, 2, 3], [4, 5, 6]])), **changes}


def point(**changes) -> dict:
    return document(points=[{"name": "sella", "point": [1, 2, 3], **changes}])


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ([], "an object"),
        (document(type="Multiple Points"), "type 'Multiple points'"),
        (document(version={"major": 2, "minor": 0}), "version"),
        (document(version={"major": 1}), "version"),
        (document(version={"major": True, "minor": 0}), "version"),
        (document(extra=1), "the key 'extra'"),
        (document(points={}), "a list of points"),
        (document(points=[None]), "point 0: wanted an object"),
        (document(points=[{"name": "a", "point": [0, 0, 0]}] * 10_001), "at most 10000 points"),
        (point(name=7), "a name"),
        (point(name=""), "a name"),
        (point(point=[1, 2]), "point \\[x, y, z\\]"),
        (point(point=[1, 2, None]), "a number"),
        (point(point=[1, 2, True]), "a number"),
        (point(point=[1, 2, "3"]), "a number"),
        (point(point=[1, 2, 10**400]), "finite"),
        (point(point=[1, 2, math.nan]), "finite"),
        (point(probability=None), "a number"),
        (point(probability=1.0000001), "probability in 0..1"),
        (point(probability=-0.1), "probability in 0..1"),
        (point(colour="red"), "the key 'colour'"),
        (point(type="point"), "type 'Point'"),
        (document(points=[{"name": "a", "point": [1, 2, 3]}] * 2), "'a' twice"),
    ],
)
def test_a_wrong_document_is_refused_by_what_is_wrong(value, match) -> None:
    with pytest.raises(ChallengeError, match=match) as error:
        from_platform_json(value, source="case.json")
    assert str(error.value).startswith("case.json: ")


def test_an_unknown_name_is_refused_where_names_are_given() -> None:
    with pytest.raises(ChallengeError, match="unknown name 'nasion'"):
        from_platform_json(document(), source="x", names=["sella"])


def test_the_key_that_the_platform_adds_is_tolerated() -> None:
    read = from_platform_json(point(time_index=0), source="x")
    assert read == Landmarks(["sella"], [[1, 2, 3]])


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b'{"type": NaN}', "the number NaN"),
        (b'{"type": 1, "type": 2}', "the key 'type' twice"),
        (b'{"type": 1', "line 1"),
        (b"\xff\xfe", "UTF-8"),
        (b"[" * 100_000, "nesting"),
    ],
)
def test_json_that_is_not_strict_is_refused(content, match) -> None:
    with pytest.raises(ChallengeError, match=match):
        parse_json(content, source="case.json")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((["a", "a"], [[0, 0, 0]] * 2), "'a' twice"),
        ((["a"], [[0, 0, math.inf]]), "finite"),
        ((["a"], [[0, 0, 0]], [1.5]), "0..1"),
        ((["a"], [[0, 0, 0]], [math.nan]), "0..1"),
        ((["a", "b"], [[0, 0, 0]]), "2 names, 1 points"),
    ],
)
def test_landmarks_that_cannot_be_are_refused(arguments, match) -> None:
    with pytest.raises(ChallengeError, match=match):
        Landmarks(*arguments)


def test_presence_is_decided_at_a_half() -> None:
    landmarks = Landmarks(["a", "b", "c"], [[1, 1, 1], [2, 2, 2], [3, 3, 3]], [0.5, 0.499, 1])
    aligned = landmarks.aligned_mm(["c", "b", "x", "a"])
    np.testing.assert_array_equal(aligned, [[3] * 3, [np.nan] * 3, [np.nan] * 3, [1] * 3])


def test_landmarks_cannot_be_changed_and_do_not_follow_their_input() -> None:
    array = np.zeros((1, 3))
    landmarks = Landmarks(["a"], array)
    array[0, 0] = 9
    assert landmarks.point_mm("a")[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        landmarks.points_mm[0, 0] = 1
    with pytest.raises(KeyError):
        landmarks.point_mm("b")


def test_no_landmark_at_all_is_a_valid_answer(tmp_path) -> None:
    write_landmarks(tmp_path / "a.json", Landmarks([], []))
    assert json.loads((tmp_path / "a.json").read_text())["points"] == []
    assert len(read_landmarks(tmp_path / "a.json")) == 0
