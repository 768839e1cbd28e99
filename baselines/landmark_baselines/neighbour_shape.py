"""Where a landmark lies by where the others do, to tell which of the places that a map shows it can be.

Each landmark is predicted from the others, relative to their centroid, by ridge regression; how far off that is, is
measured on training cases that were left out. The density around a prediction has the heavy tails of a t-distribution,
so that one landmark in a wrong place draws hardly any other along.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

DEGREES_OF_FREEDOM = 3.0
# What is added to the mean squares of what predicts, in mm^2; of each landmark the one that predicts best.
RIDGES_MM2 = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 1e9)
SMALLEST_ERROR_MM = 1.0
FEWEST_CASES = 3


@dataclass(frozen=True)
class NeighbourShape:
    """coefficients: (L, K, ndim), K = (L - 1) ndim, of what each landmark is predicted from. means: (L, K) mm, of that
    in the training cases. offsets: (L, ndim) mm, of itself. precisions: (L, ndim, ndim) 1 / mm^2, of predictions.

    All positions are relative to the centroid of the other landmarks.
    """

    coefficients: Tensor
    means: Tensor
    offsets: Tensor
    precisions: Tensor

    @classmethod
    def of(cls, points_mm: Tensor) -> "NeighbourShape | None":
        """From the training cases (N, L, ndim) that have all landmarks; None where there are fewer than three of them,
        or fewer than two landmarks.
        """
        points_mm = points_mm[torch.isfinite(points_mm).flatten(1).all(dim=1)].double()
        if len(points_mm) < FEWEST_CASES or points_mm.shape[1] < 2:
            return None
        around, centroids = _relative(points_mm)
        own = points_mm - centroids
        parts = [_regression(around[:, i], own[:, i]) for i in range(points_mm.shape[1])]
        return cls(*(torch.stack(part).float() for part in zip(*parts, strict=True)))

    def expected(self, points_mm: Tensor) -> Tensor:
        """(L, ndim) mm: where each of the points (L, ndim) is to be expected by the others."""
        around, centroids = (part[0] for part in _relative(points_mm.unsqueeze(0)))
        return centroids + self.offsets + torch.einsum("lk,lkj->lj", around - self.means, self.coefficients)

    def squared_distances(self, points_mm: Tensor, expected_mm: Tensor) -> Tensor:
        """(L,): of points (L, ndim) from where they are expected (L, ndim), in squared standard deviations."""
        apart = points_mm - expected_mm
        return torch.einsum("li,lij,lj->l", apart, self.precisions, apart)

    def log_density(self, landmark: int, points_mm: Tensor, expected_mm: Tensor) -> Tensor:
        """(...): logarithm, but for a constant, of the density at points (..., ndim) of a landmark."""
        apart = points_mm - expected_mm[landmark]
        squared = torch.einsum("...i,ij,...j->...", apart, self.precisions[landmark], apart)
        return -(DEGREES_OF_FREEDOM + apart.shape[-1]) / 2 * torch.log1p(squared / DEGREES_OF_FREEDOM)

    def to(self, device: torch.device | str) -> "NeighbourShape":
        """On another device."""
        return NeighbourShape(*(part.to(device) for part in vars(self).values()))


def _relative(points: Tensor) -> tuple[Tensor, Tensor]:
    """(N, L, (L - 1) ndim): of each landmark the others, from their centroid, which is (N, L, ndim)."""
    count = points.shape[1]
    index = torch.tensor([[j for j in range(count) if j != i] for i in range(count)], device=points.device)
    others = points[:, index]
    centroids = others.mean(dim=2)
    return (others - centroids.unsqueeze(2)).flatten(2), centroids


def _regression(around: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of (N, K) and (N, ndim): coefficients, means of both, precision of what is left in cases that are left out."""
    means, offset = around.mean(dim=0), own.mean(dim=0)
    x, y, count = around - means, own - offset, len(own)
    found = []
    for ridge in RIDGES_MM2:
        inverse = torch.linalg.inv(x.T @ x + count * ridge * torch.eye(x.shape[1]).to(x))
        coefficients = inverse @ x.T @ y
        # what is left of a case without itself, by its own share in what is said of it
        share = torch.einsum("ni,ij,nj->n", x, inverse, x) + 1 / count
        left = (y - x @ coefficients) / (1 - share).clamp(min=1e-6).unsqueeze(-1)
        found.append((coefficients, left))
    coefficients, left = min(found, key=lambda each: float(each[1].square().mean()))
    covariance = left.T @ left / count + SMALLEST_ERROR_MM**2 * torch.eye(y.shape[1]).to(y)
    return coefficients, means, offset, torch.linalg.inv(covariance)
