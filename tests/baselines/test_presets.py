"""What `--set` refuses: one line that names the field, before anything is trained."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from landmark_baselines import cascade, global_to_local, heatmap_unet, loc_net
from landmark_baselines.cli import train
from landmark_baselines.method import METHODS, PRESETS, method_module
from landmark_baselines.presets import overridden
from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import load_task, task_names

CEPH = load_task("ceph-19")


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("schedule.batch=0", "schedule.batch: wanted a number above 0, got 0"),
        ("schedule.iterations=-5", "schedule.iterations: wanted a number above 0, got -5"),
        ("schedule.validate_every=0", "schedule.validate_every: wanted a number above 0, got 0"),
        ("schedule.learning_rate=.inf", "schedule.learning_rate: wanted a number of at least 0, got inf"),
        ("schedule.policy=foo", "schedule.policy: .*'constant' or 'one-cycle', got 'foo'"),
        ("spacing_mm=0", "spacing_mm: wanted a number above 0, got 0"),
        ("spacing_mm=-1.5", "spacing_mm: wanted a number above 0, got -1.5"),
        ("spacing_mm=.nan", "spacing_mm: wanted a number above 0, got nan"),
        ("augmentation.noise=-0.1", "augmentation.noise: wanted a number of at least 0, got -0.1"),
        ("architecture.widths=[8, 0]", "architecture.widths: wanted a number above 0, got 0"),
        ("schedule.batch=many", "schedule.batch: .*valid integer.*, got 'many'"),
    ],
)
def test_what_cannot_be_is_refused(wrong: str, why: str) -> None:
    with pytest.raises(ChallengeError, match=f"^--set: {why}"):
        overridden(heatmap_unet.preset_settings("tiny", CEPH), [wrong])


def test_choices_and_parts_of_lists_are_looked_at() -> None:
    settings = global_to_local.preset_settings("tiny", CEPH)
    for wrong in ("decoding=foo", "regression=foo"):
        with pytest.raises(ChallengeError, match=r"^--set: (decoding|regression): .*, got 'foo'"):
            overridden(settings, [wrong])
    with pytest.raises(ChallengeError, match=r"local_stage\.schedule\.batch: wanted a number above 0"):
        overridden(settings, ["local_stage.schedule.batch=0"])
    with pytest.raises(ChallengeError, match="spacings_mm: wanted a number above 0"):
        overridden(loc_net.preset_settings("tiny", CEPH), ["spacings_mm=[4.0, 0.0]"])


def test_of_several_kinds_the_one_that_was_meant_is_named() -> None:
    settings = cascade.preset_settings("cpu", CEPH)
    with pytest.raises(ChallengeError, match=r"^--set: coarse\.architecture\..*imagenet: .*boolean.*, got '?7"):
        overridden(settings, ["coarse.architecture.imagenet=7"])
    with pytest.raises(ChallengeError, match=r"^--set: coarse\.architecture\.width: wanted a number above 0"):
        overridden(settings, ["coarse.architecture.width=0"])


@pytest.mark.parametrize("method", METHODS)
def test_every_preset_is_itself_possible(method: str) -> None:
    module = method_module(method)
    if not hasattr(module, "preset_settings"):
        pytest.skip("nothing to set")
    for preset in PRESETS:
        for task in task_names():
            settings = module.preset_settings(preset, load_task(task))
            assert overridden(settings, []) == settings


def test_training_with_what_cannot_be_leaves_no_folder(tiny_dataset: Path, tmp_path: Path) -> None:
    words = ["heatmap_unet", str(tiny_dataset), "--out", str(tmp_path / "model"), "--preset", "tiny"]
    done = CliRunner().invoke(train, [*words, "--set", "schedule.iterations=-5"])
    assert isinstance(done.exception, ChallengeError) and not (tmp_path / "model").exists()
