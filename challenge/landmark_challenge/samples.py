"""Sample cases for a container's test.sh: `python -m landmark_challenge.samples DATASET OUT [--cases N --model MODEL]`.

Each is OUT/<case>/input as the platform provides it (the image compressed where that helps) beside
OUT/<case>/expected.json: the reference, or with --model what that model itself answers, for a method whose answer is
known but wrong, such as the mean shape.
"""

from pathlib import Path

import click

from . import files
from .dataset import SPLITS, Dataset
from .errors import ChallengeError
from .images import write_image
from .landmarks import write_landmarks
from .local_worker import load_localizer
from .running import CaseImage, provide_case

MAX_BYTES = 1_000_000


def write_samples(dataset: Dataset, folder: Path, *, split: str = "test", cases: int = 3, model: Path | None) -> None:
    """Write the first `cases` of a split as sample cases, whole or not at all. Raises ChallengeError."""
    chosen = dataset.cases(split=split)[:cases]
    if len(chosen) < cases:
        raise ChallengeError(f"{dataset.folder}: wanted {cases} cases in split '{split}', got {len(chosen)}")
    localizer = None if model is None else load_localizer(model)
    with files.staged_folder(folder) as staging:
        for case in chosen:
            image = dataset.image(case.name)
            packed = staging / f"{case.name}.mha"
            write_image(packed, image)
            plain_bytes = packed.stat().st_size
            write_image(packed, image, compress=True)
            if packed.stat().st_size >= plain_bytes:
                write_image(packed, image)  # noise does not compress
            if packed.stat().st_size > MAX_BYTES:
                raise ChallengeError(f"{case.name}: wanted a sample of at most {MAX_BYTES} bytes, it is larger")
            target = staging / case.name
            (target / "input").mkdir(parents=True)
            provide_case(dataset.task, CaseImage(case.name, packed), target / "input")
            packed.unlink()
            expected = dataset.landmarks(case.name) if localizer is None else localizer.localize(image).landmarks
            write_landmarks(target / "expected.json", expected)


@click.command()
@click.argument("dataset", type=click.Path(file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True)
@click.option("--cases", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--model", type=click.Path(file_okay=False, path_type=Path), help="Expect what this model answers.")
def main(dataset: Path, out: Path, split: str, cases: int, model: Path | None) -> None:
    """Write sample cases of DATASET to the new folder OUT, for a container's test.sh.

    \b
    Example: python -m landmark_challenge.samples phantoms baselines/template/test --cases 2
    """
    try:
        write_samples(Dataset(dataset), out, split=split, cases=cases, model=model)
    except ChallengeError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
