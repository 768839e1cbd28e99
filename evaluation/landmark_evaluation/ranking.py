"""Who is better, how surely, and how many cases it would take: paired tests, ranks and their stability.

The unit is the group of cases (the patient; the case, where each is a group of its own): the mean error of each, paired
between submissions, because points of one image are not independent, nor are images of one patient. Wilcoxon
signed-rank tests with Holm's correction over all pairs; power by Noether's formula for the signed-rank test (JASA
1987), which needs no distribution: n = (z_alpha/2 + z_beta)^2 / (3 (p - 1/2)^2), p the chance that the mean of two
differences is positive.

The test is one everywhere, in what is shown and in every resample: the normal approximation with corrections for ties
and continuity. An exact one knows no ties, which resamples are full of, and the uncorrected one finds five cases of one
sign significant, which they cannot be.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .metrics import TIE_TOLERANCE_MM
from .statistics import Interval, draw_cases, interval

ALPHA = 0.05
POWER = 0.80
# A rank sum moves in steps of one: half a step stands between it and the normal distribution.
CONTINUITY = 0.5
SIGNIFICANCE_RESAMPLES = 200
MAX_CASES_NEEDED = 1_000_000


@dataclass(frozen=True)
class Pair:
    """Two submissions: difference_mm of their mean errors over cases (negative: the first is better) with its interval.

    p, p_holm: two-sided signed-rank test, raw and corrected over all pairs. effect: matched-pairs rank-biserial
    correlation in -1..1, negative where the first is better. cases_needed: for 80 % power at 5 %, in groups as large as
    those at hand; None: over a million.
    """

    first: int
    second: int
    difference_mm: float
    interval_mm: Interval | None
    p: float
    p_holm: float
    effect: float
    cases_needed: int | None


def compare_pairs(
    case_mean_mm: NDArray[np.float64], *, groups: NDArray[np.int64] | None = None, resamples: int, seed: int
) -> list[Pair]:
    """Every pair of submissions; case_mean_mm: (submissions, cases), NaN where a case has nothing to score.

    groups: (cases,) the number of each case's group, None where every case is its own.
    """
    cases, group = _scored(case_mean_mm, groups)
    means = group_means(case_mean_mm, groups)
    order = list(combinations(range(len(cases)), 2))
    if not order or means.shape[1] < 2:
        return []
    drawn = [
        (draws @ cases.T) / draws.sum(axis=1, keepdims=True)
        for draws in draw_cases(cases.shape[1], groups=group, resamples=resamples, seed=seed)
    ]
    redrawn = np.concatenate(drawn)
    first, second = np.array(order).T
    ranks = SignedRanks.of(means[first] - means[second])
    raw = ranks.p.tolist()
    # The groups that tell two submissions apart are counted: of the others a test needs as many more.
    shares = (cases.shape[1] / np.maximum(ranks.count, 1)).tolist()
    return [
        Pair(
            first=a,
            second=b,
            difference_mm=float((cases[a] - cases[b]).mean()),
            interval_mm=interval(redrawn[:, a] - redrawn[:, b]),
            p=p,
            p_holm=p_holm,
            effect=effect,
            cases_needed=cases_needed(effect, cases_per_group=share),
        )
        for (a, b), p, p_holm, effect, share in zip(order, raw, holm(raw), ranks.effect.tolist(), shares, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class SignedRanks:
    """Wilcoxon's signed ranks of rows of differences, (rows,) each: how many are not zero, the sum of the ranks of
    positive ones, that of all which are not zero, and that of the squares of these. Ties get midranks.

    Differences within 1e-9 mm of each other are ties, and of zero none: float64 would decide those by rounding.
    """

    count: NDArray[np.int64]
    plus: NDArray[np.float64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, difference: NDArray[np.float64]) -> "SignedRanks":
        """Of (rows, n) differences."""
        steps = np.round(np.abs(difference) / TIE_TOLERANCE_MM)
        apart = steps > 0
        ranks = np.nan_to_num(stats.rankdata(np.where(apart, steps, np.nan), axis=1, nan_policy="omit"))
        plus = (ranks * (difference > 0)).sum(axis=1)
        return cls(apart.sum(axis=1), plus, ranks.sum(axis=1), (ranks**2).sum(axis=1))

    @property
    def p(self) -> NDArray[np.float64]:
        """(rows,) two-sided p-values; 1 where all differences are zero."""
        away = np.maximum(np.abs(self.plus - self.total / 2) - CONTINUITY, 0.0)
        sd = np.sqrt(self.squares / 4)  # midranks make this the tie-corrected variance
        z = away / np.where(sd > 0, sd, 1.0)
        return 2 * stats.norm.sf(z)

    @property
    def effect(self) -> NDArray[np.float64]:
        """(rows,) share of the rank sum in favour of positive differences minus that of negative ones; 0 where all are
        zero."""
        share = self.plus / np.where(self.total > 0, self.total, 1.0)
        return np.where(self.total > 0, 2 * share - 1, 0.0)


def group_means(case_mean_mm: NDArray[np.float64], groups: NDArray[np.int64] | None) -> NDArray[np.float64]:
    """(submissions, groups) mean over the cases of each group in which every submission has something to score."""
    cases, group = _scored(case_mean_mm, groups)
    if cases.shape[1] == 0:
        return cases
    sums = np.stack([np.bincount(group, row) for row in cases])
    return sums / np.bincount(group)


def _scored(
    case_mean_mm: NDArray[np.float64], groups: NDArray[np.int64] | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The cases in which every submission has something to score, and their groups, numbered without gaps."""
    chosen = np.flatnonzero(np.isfinite(case_mean_mm).all(axis=0))
    group = chosen if groups is None else groups[chosen]
    return case_mean_mm[:, chosen], np.unique(group, return_inverse=True)[1]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the given order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (p.size - np.arange(p.size)))
    result = np.empty_like(p)
    result[order] = np.minimum(stepped, 1.0)
    return result.tolist()


def cases_needed(effect: float, *, cases_per_group: float = 1.0) -> int | None:
    """How many cases like these a signed-rank test needs for 80 % power at 5 %, two-sided (Noether 1987).

    effect: rank-biserial correlation of the differences between groups, from which the chance p is estimated: the share
    of the positive rank sum. cases_per_group: for each group whose difference is not zero, which alone Noether counts.
    None where more than a million would not do.
    """
    away = abs(effect) / 2
    z = stats.norm.ppf(1 - ALPHA / 2) + stats.norm.ppf(POWER)
    needed = z**2 / (3 * away**2) * cases_per_group if away > 0 else np.inf
    return ceil(needed) if needed <= MAX_CASES_NEEDED else None


def significance_points(case_mean_mm: NDArray[np.float64], pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """(submissions,) against how many others each is significantly better (Holm, 5 %)."""
    points = np.zeros(len(case_mean_mm))
    for pair in pairs:
        if pair.p_holm < ALPHA:
            points[pair.first if pair.effect < 0 else pair.second] += 1
    return points


def resampled_significance_points(
    case_mean_mm: NDArray[np.float64], *, groups: NDArray[np.int64] | None = None, seed: int
) -> NDArray[np.float64]:
    """(200, submissions) significance points when groups are drawn again; `SignedRanks` has the test."""
    means = group_means(case_mean_mm, groups)
    order = list(combinations(range(len(means)), 2))
    first, second = np.array(order).T
    generator = np.random.default_rng(seed)
    points = np.zeros((SIGNIFICANCE_RESAMPLES, len(means)))
    for row in range(SIGNIFICANCE_RESAMPLES):
        drawn = means[:, generator.integers(0, means.shape[1], means.shape[1])]
        ranks = SignedRanks.of(drawn[first] - drawn[second])
        for k in np.flatnonzero(np.array(holm(ranks.p.tolist())) < ALPHA):
            points[row, first[k] if ranks.effect[k] < 0 else second[k]] += 1
    return points


def ranks_of(values: NDArray[np.float64], *, descending: bool) -> NDArray[np.float64]:
    """Ranks from 1 along the last axis, equal values (within 1e-9) share the smallest.

    >>> ranks_of(np.array([0.3, 0.1, 0.1]), descending=False).tolist()
    [3.0, 1.0, 1.0]
    """
    steps = np.round(np.asarray(values, np.float64) / TIE_TOLERANCE_MM)
    steps = np.where(np.isfinite(values), steps, values)
    return stats.rankdata(-steps if descending else steps, method="min", axis=-1).astype(np.float64)


def combine_ranks(columns: Sequence[NDArray[np.float64]], *, rule: str) -> NDArray[np.float64]:
    """(..., submissions) final ranks from the ranks in each column: `score` takes the first, `mean-rank` their mean."""
    if rule == "score":
        return columns[0]
    return ranks_of(np.mean(columns, axis=0), descending=False)


@dataclass(frozen=True, eq=False)
class Stability:
    """share: (submissions, ranks) of the resamples in which a submission has that rank. kendall_tau: (resamples,)
    agreement of each resample's ranking with the one shown.

    The shares are no error rates: all resamples are of the same cases, so that of two equal submissions one may be
    ahead, and significantly so, in far more than 5 % of them.
    """

    share: NDArray[np.float64]
    kendall_tau: NDArray[np.float64]


def stability(ranks: NDArray[np.float64], resampled: NDArray[np.float64]) -> Stability:
    """How firm `ranks` (submissions,) are, from (resamples, submissions) ranks."""
    n = ranks.size
    share = np.stack([(resampled == rank).mean(axis=0) for rank in range(1, n + 1)], axis=1)
    return Stability(share, kendall_tau(ranks, resampled))


def kendall_tau(ranks: NDArray[np.float64], resampled: NDArray[np.float64]) -> NDArray[np.float64]:
    """(resamples,) Kendall's tau-b between one ranking and each of many; 1 where both are all ties, 0 where one is."""
    upper = np.triu_indices(ranks.size, 1)
    a = np.sign(ranks[:, None] - ranks[None])[upper]
    b = np.sign(resampled[:, :, None] - resampled[:, None])[:, upper[0], upper[1]]
    scale = np.sqrt((a != 0).sum() * (b != 0).sum(axis=1))
    tied = np.where((a != 0).any() | (b != 0).any(axis=1), 0.0, 1.0)
    return np.where(scale > 0, (a * b).sum(axis=1) / np.where(scale > 0, scale, 1), tied)
