"""Walks of agents: views against slicing, moves and oscillation against a walk done by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from landmark_baselines.walks import SEEN_TOO_OFTEN, Memory, Scales, Walkers, crops, directions, random_places


@given(
    ndim=st.integers(2, 3),
    side=st.sampled_from([1, 4, 5]),
    stride=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_views_are_strided_slices_of_the_image_with_zeros_outside(ndim: int, side: int, stride: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    shape = draw.integers(1, 9, ndim)
    images = draw.integers(1, 255, (2, *shape)).astype(np.uint8)
    centre = draw.integers(0, shape[::-1])
    margin = side * stride
    wide = np.pad(images[1], margin)
    starts = [margin + int(at) - (side // 2) * stride for at in centre[::-1]]
    expected = wide[tuple(slice(start, start + side * stride, stride) for start in starts)]
    seen = crops(
        torch.from_numpy(images),
        torch.tensor([1]),
        torch.from_numpy(centre)[None, None],
        torch.tensor([stride]),
        side=side,
    )
    np.testing.assert_array_equal(seen[0, 0].numpy(), expected)


def test_actions_are_one_step_along_one_axis_each_way() -> None:
    for ndim in (2, 3):
        moves = directions(ndim)
        assert len({tuple(move.tolist()) for move in moves}) == 2 * ndim
        assert (moves.abs().sum(dim=1) == 1).all()


def _walker(place: tuple[int, int], extent: tuple[int, int] = (40, 30)) -> Walkers:
    return Walkers.at(torch.tensor([place]), torch.tensor([0]), torch.tensor(extent), frames=4)


def _move(walker: Walkers, action: int, value: float = 0.0, scales: Scales | None = None) -> bool:
    return bool(walker.move(torch.tensor([action]), torch.tensor([value]), scales or Scales())[0])


def test_steps_are_as_long_as_the_scale_says_and_nobody_leaves_the_image() -> None:
    walker = _walker((20, 10))
    assert not _move(walker, 0) and walker.places.tolist() == [[29, 10]]
    assert not _move(walker, 0) and walker.places.tolist() == [[38, 10]]
    assert _move(walker, 0) and walker.places.tolist() == [[38, 10]]
    assert walker.history[0].tolist() == [[20, 10], [29, 10], [38, 10], [38, 10]]
    assert int(walker.age) == 3


def test_oscillation_goes_to_the_place_that_promised_least_and_to_the_next_scale() -> None:
    walker = _walker((20, 10))
    values = {(20, 10): 0.3, (29, 10): 0.9}
    visits = {(20, 10): 1}
    action = 0
    while int(walker.scale) == 0:
        here = tuple(walker.places[0].tolist())
        _move(walker, action, values[here])
        action = 1 - action
        there = tuple(walker.places[0].tolist())
        visits[there] = visits.get(there, 0) + 1
        assert sum(visits.values()) < 20
    assert max(visits.values()) == SEEN_TOO_OFTEN + 2  # seen more than three times before the last visit
    assert walker.places.tolist() == [[20, 10]]
    assert walker.history[0].tolist() == [[20, 10]] * 4
    assert (walker.trail == -1).all()


def test_a_walk_ends_after_the_last_scale_and_stays_where_it_is() -> None:
    scales = Scales((2, 1), (2, 1))
    walker = _walker((20, 10))
    for step in range(100):
        _move(walker, step % 2, float(step), scales)
        if bool(walker.ended):
            break
    assert bool(walker.ended) and int(walker.scale) == 1
    place, age = walker.places.clone(), int(walker.age)
    assert not _move(walker, 2, scales=scales)
    assert torch.equal(walker.places, place) and int(walker.age) == age


def test_walkers_do_not_depend_on_each_other() -> None:
    generator = torch.Generator().manual_seed(3)
    extent = torch.tensor([50, 40, 30])
    places = random_places(6, extent, share=0.5, generator=generator)
    image = torch.zeros(6, dtype=torch.long)
    together = Walkers.at(places, image, extent, frames=3)
    alone = [Walkers.at(places[i : i + 1], image[:1], extent, frames=3) for i in range(6)]
    for _ in range(60):
        actions = torch.randint(2, (6,), generator=generator)
        values = torch.rand(6, generator=generator)
        together.move(actions, values, Scales())
        for i, walker in enumerate(alone):
            walker.move(actions[i : i + 1], values[i : i + 1], Scales())
    assert int(together.scale.max()) > 0
    for i, walker in enumerate(alone):
        assert torch.equal(together.history[i], walker.history[0])
        assert int(together.scale[i]) == int(walker.scale) and bool(together.ended[i]) == bool(walker.ended)


@pytest.mark.parametrize("share", [0.5, 0.6])
def test_starts_lie_in_the_central_share(share: float) -> None:
    extent = torch.tensor([100, 200])
    places = random_places(4000, extent, share=share, generator=torch.Generator().manual_seed(0)).double()
    low, high = (0.5 - share / 2) * extent, (0.5 + share / 2) * extent
    assert (places >= low - 1).all() and (places <= high).all()
    torch.testing.assert_close(places.mean(dim=0) + 0.5, extent / 2.0, rtol=0.02, atol=0.0, check_dtype=False)


def test_memory_forgets_the_oldest_and_gives_back_what_it_was_given() -> None:
    memory = Memory(2, 5, frames=1, ndim=2, device="cpu")
    for number in range(7):
        place = torch.full((2, 1, 1, 2), number)
        flat = torch.full((2, 1), number)
        memory.add(
            image=flat,
            before=place,
            after=place + 1,
            scale_before=flat,
            scale_after=flat,
            action=flat,
            reward=flat / 10,
            last=flat % 2 == 1,
        )
    assert len(memory) == 5
    drawn = memory.sample(400, generator=torch.Generator().manual_seed(0))
    assert set(drawn["image"].flatten().tolist()) == {2, 3, 4, 5, 6}
    assert torch.equal(drawn["after"], drawn["before"] + 1)
    assert torch.equal(drawn["before"][..., 0, 0], drawn["image"])
    torch.testing.assert_close(drawn["reward"], drawn["image"] / 10)
    assert torch.equal(drawn["last"], drawn["image"] % 2 == 1)


def test_the_papers_memory_fits_far_below_four_gigabytes() -> None:
    memory = Memory(10, 100_000, frames=4, ndim=3, device="cpu")
    assert memory.nbytes < 100e6
