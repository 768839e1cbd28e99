"""How fast patches are sampled and PIN walks: `python -m landmark_baselines.pin_bench [--device D]`.

Noise in place of images and weights: neither changes how long it takes. The volume is that of the paper, 324x207x279
voxels of 0.5 mm in 8 bits, and one twice as large along each axis; images are in memory, reading them is not counted.
"""

import time
from collections.abc import Callable
from functools import partial

import click
import numpy as np
import torch
import torch.nn.functional as F

from landmark_challenge.images import Image
from landmark_challenge.shape_space import fit_space
from landmark_challenge.task import load_task

from .blocks import for_inference, placed
from .checkpoints import Model
from .method import resolve_device
from .pin import Pin, preset_settings
from .pin_network import build_network
from .planar_patches import PatchShape, sample_patches
from .training import set_threads
from .volumes import Volumes

SIZE = (324, 207, 279)
PAIRS = 4  # times the repeats
SPACING_MM = 0.5
PATCH = 101
TASK = "fetal-us-10"


def volume(factor: int = 1) -> Image:
    """Noise of the paper's size, or so many times that along each axis."""
    shape = tuple(count * factor for count in SIZE[::-1])
    return Image.of(np.random.default_rng(0).integers(0, 256, shape, np.uint8), [SPACING_MM] * 3)


def seconds(work: Callable[[], object], *, repeats: int, device: torch.device) -> float:
    """The median time of `work`, once done before."""
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)
    return float(np.median(times[1:]))


def triples(image: Image, count: int, *, device: torch.device) -> tuple[Callable[[], object], Callable[[], object]]:
    """Sampling of `count` triples of planes at random places: as PIN does it, and by grid_sample."""
    random = torch.Generator().manual_seed(0)
    centres = torch.rand(count, 3, generator=random).to(device) * torch.tensor(SIZE, device=device)
    values = torch.from_numpy(image.array)[None, None].to(device)
    volumes, dense = Volumes.of(values, SPACING_MM), values.float().div_(255)
    which, shape = torch.zeros(count, dtype=torch.long, device=device), PatchShape(PATCH, SPACING_MM)
    offsets = (shape.offsets_mm(3, device) / SPACING_MM).reshape(3, -1, 3)
    extent = torch.tensor(SIZE, device=device)

    def plain() -> None:
        for plane in offsets:
            grid = (2 * (centres[:, None] + plane) + 1) / extent - 1
            F.grid_sample(dense, grid[None, None], padding_mode="border", align_corners=False)

    return lambda: sample_patches(volumes, which, centres * SPACING_MM, shape), plain


def untrained(device: torch.device) -> Pin:
    """PIN-Multiple as in the paper: ten landmarks, 15 components, six starts, ten steps."""
    task = load_task(TASK)
    settings = preset_settings("paper", task)
    middle = np.array(SIZE) * SPACING_MM / 2
    sets = middle + np.random.default_rng(0).normal(0, 15, (16, len(task.names), 3))
    space, _ = fit_space(sets, explained=1.0)
    network = build_network(task, settings, space).eval()
    placed(network, str(device), 2)
    for part in (network.body, network.regress, network.classify):
        for_inference(part)
    return Pin(Model("pin", "paper", {}, task, {}, {}, {}), settings, network, device)


@click.command()
@click.option("--device", default="cpu", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--repeats", default=5, show_default=True, help="Of which the median is taken.")
@click.option("--count", default=1000, show_default=True, help="Triples of planes.")
def main(device: str, repeats: int, count: int) -> None:
    """Print the time of 1000 triples of 101x101 planes beside grid_sample's, and that of a walk in two volumes.

    \b
    Example: python -m landmark_baselines.pin_bench
    """
    where = torch.device(resolve_device(device))
    set_threads()
    image = volume()
    ours, plain = (seconds(work, repeats=repeats, device=where) for work in triples(image, count, device=where))
    click.echo(f"{torch.get_num_threads()} threads, device {where}")
    click.echo(
        f"{count} triples of {PATCH}x{PATCH}: {ours:.3f} s, grid_sample {plain:.3f} s, {plain / ours:.1f} times that"
    )
    pin, images = untrained(where), [volume(factor) for factor in (1, 2)]
    # in turns, so that what slows the machine for a while slows both
    walks = np.array(
        [
            [seconds(partial(pin.localize, image), repeats=1, device=where) for image in images]
            for _ in range(PAIRS * repeats)
        ]
    )
    for image, median in zip(images, np.median(walks, axis=0), strict=True):
        click.echo(f"10 landmarks, 6 starts, 10 steps in {'x'.join(map(str, image.size))} voxels: {median:.3f} s")
    low, growth, high = 100 * (np.quantile(walks[:, 1] / walks[:, 0], (0.25, 0.5, 0.75)) - 1)
    click.echo(
        f"growth with 8 times the voxels: {growth:.1f} % ({low:.1f} to {high:.1f} % in half of {len(walks)} pairs)"
    )


if __name__ == "__main__":
    main()
