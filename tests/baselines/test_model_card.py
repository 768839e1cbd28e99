"""Model cards: those committed are what the models say now, and each says what a reader must know."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from landmark_baselines.model_card import main, model_card
from landmark_challenge import files
from landmark_challenge.errors import ChallengeError

ROOT = Path(__file__).parents[2]
MODELS = sorted(ROOT.glob("baselines/*/model/model.json"))


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.parents[1].name)
def test_the_committed_card_is_what_the_model_says(path):
    card = path.parents[1] / "MODEL_CARD.md"
    how = f"python -m landmark_baselines.model_card {path.parent.relative_to(ROOT)} --out {card.relative_to(ROOT)}"
    assert card.is_file() and card.read_text() == model_card(path.parent), f"write it anew: {how}"


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.parents[1].name)
def test_a_card_names_data_licence_use_limits_and_results(path):
    value = files.read_json(path)
    text = model_card(path.parent)
    for heading in ("Model", "Data and licence", "Intended use", "Limits", "Results"):
        assert f"## {heading}" in text
    assert value["provenance"]["data_licence"] in text and value["provenance"]["data_source"] in text
    assert "Not for diagnosis" in text and value["task"]["name"] in text


def write_model(folder, **provenance):
    value = files.read_json(MODELS[0])
    value["provenance"] = {"data_source": "A hospital", "data_licence": "research only", **provenance}
    files.write_json(folder / "model.json", value)
    return folder


def test_a_model_of_real_images_is_not_called_synthetic_and_shows_its_best_validation(tmp_path):
    text = model_card(write_model(tmp_path, validation_curve={"global": [[10, 5.0], [20, 3.25], [30, 4.0]]}))
    assert "| global | 20 | 3.25 |" in text and "no test result" in text
    assert "drawn images" not in text and "worthless" not in text and "research only" in text


def test_weights_that_training_began_from_are_named_with_their_licence(tmp_path):
    text = model_card(write_model(tmp_path, begun_from="ImageNet: a network, Apache-2.0"))
    assert "Training began from the weights of ImageNet: a network, Apache-2.0." in text
    assert "began" not in model_card(write_model(tmp_path))


def test_what_is_not_recorded_is_said(tmp_path):
    value = files.read_json(MODELS[0])
    value["provenance"] = {}
    files.write_json(tmp_path / "model.json", value)
    text = model_card(tmp_path)
    assert text.count("not recorded") >= 3 and "None recorded in the model." in text


def test_the_command_writes_or_prints_and_refuses_what_is_no_model(tmp_path):
    folder = write_model(tmp_path / "model")
    printed = CliRunner().invoke(main, [str(folder)])
    assert printed.exit_code == 0 and printed.output == model_card(folder)
    assert CliRunner().invoke(main, [str(folder), "--out", str(tmp_path / "card.md")]).exit_code == 0
    assert (tmp_path / "card.md").read_text() == model_card(folder)
    files.write_json(tmp_path / "other/model.json", {"x": 1})
    with pytest.raises(ChallengeError, match="wanted a model's description"):
        model_card(tmp_path / "other")
    assert CliRunner().invoke(main, [str(tmp_path / "other")]).exit_code != 0
