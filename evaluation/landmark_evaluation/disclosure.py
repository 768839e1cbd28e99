"""What `protected` scores tell: headline aggregates with keyed noise, so that scores do not give the references back.

The threat. A participant moves one point of a submission and watches the scores: every exact figure is then a distance
to the hidden point, and a handful of submissions trilaterate it. Rounding alone only slows this down: other points
dither across the rounding step. A maximum or the row of one landmark hands the distance out, and so does a median whose
neighbours the participant pushed far away. So of where points are, a protected result tells two noisy things and what
follows from them:

- the mean error, with each given point's error capped at CAP_MM. A probe far away then tells nothing of a point, one
  within CAP_MM of it shifts the mean by at most CAP_MM / N (N points), and Gaussian noise of SD `A / N` covers that. A
  point that was left out is charged the task's missing_error_mm as ever, so leaving one out never pays.
- the success curve. One point moves it by at most 1/N at each of its K thresholds; noise of SD `B / N` on each.
- median and IQR are read off the noisy curve, which costs no further information.

What is exact. n_missing and n_false_alarms are counts without noise, and so are n_points, n_cases and n_groups of the
protocol. None of them depends on where a given point lies, but they give away which landmarks are there: a submission
of one point tells by its false alarm whether that landmark is absent, and one of many points halves the question. So
presence is not protected. Noise that hid it would have an SD of sqrt(SUBMISSIONS), 14 landmarks, and drown the counts.
Run times are exact too, and tell nothing of the references.

A and B. Between any two places of one point, a submission tells the mean apart by (CAP_MM / A)^2 squared standard
deviations at most and the curve by K / B^2, whatever else it does and whatever was learned before. A and B make either
sum to one over SUBMISSIONS: A = CAP_MM * sqrt(SUBMISSIONS), B = sqrt(K * SUBMISSIONS). (In the terms of differential
privacy: 200 adaptive submissions are 1-zCDP with respect to one point; Bun and Steinke, TCC 2016.) Both SDs fall with
N: many points make small noise, 0.025 mm at 150 cases of 19.

What this is worth: the Bayesian attack of the tests, which knows the point to a square 20 mm wide beforehand, knows all
of the above and chooses the most telling probe every time, comes within 5 mm of 24 in 100 points with 200 submissions,
half of them farther than 8 mm; guessing gets 20 in 100. With 1000 submissions it is 39. What it is not worth: noise
slows an attack and only a limit on submissions ends it; the same cases in several phases add their submissions up; a
displacement that many points share (a head put elsewhere in the scanner) is found with as many times fewer.

Two ways that fail. Noise shared by similar submissions cancels in their difference, which is what an attack looks at.
An uncapped mean at this noise lets a far probe measure a direction, and 200 of them come within 5 mm of 45 in 100.

The noise is keyed by the secret of the reference folder and the submission's points: the same submission always gets
the same score, and repeating it teaches nothing. It is not keyed by run time, probabilities or file layout, which a
participant could vary for free.
"""

import hashlib
import hmac
from dataclasses import dataclass
from math import ceil, floor, log10, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark_challenge.task import Task, threshold_key

from .metrics import Scores, success
from .pairing import Submission
from .references import Reference
from .results import Aggregates, ErrorSummary, Noise

SUBMISSIONS = 200
RADIUS_MM = 5.0
CAP_MM = RADIUS_MM
# Median of the distance from the centre of a standard normal in the plane, and in space.
MEDIAN_RADIUS = {2: 1.17741, 3: 1.53817}
BEYOND_LAST = (2.0, 4.0)


@dataclass(frozen=True)
class NoiseLevel:
    """SDs of the noise: of the mean in mm, of each success rate; and how many submissions locating a point takes at
    least."""

    mean_mm: float
    rate: float
    locate_submissions: int


def noise_level(n_points: int, *, dimension: int, n_thresholds: int) -> NoiseLevel:
    """The noise that N points need (see the module's text).

    >>> level = noise_level(2850, dimension=2, n_thresholds=12)
    >>> round(level.mean_mm, 3), round(level.rate, 4), level.locate_submissions
    (0.025, 0.0172, 555)
    """
    distance_sd_mm = CAP_MM * sqrt(SUBMISSIONS)
    return NoiseLevel(
        mean_mm=distance_sd_mm / n_points,
        rate=sqrt(SUBMISSIONS * n_thresholds) / n_points,
        # Distances measured from all sides, each probe close enough to tell: what geometry allows at best.
        locate_submissions=ceil(dimension * (distance_sd_mm * MEDIAN_RADIUS[dimension] / RADIUS_MM) ** 2),
    )


def curve_thresholds_mm(task: Task) -> list[float]:
    """Where the success curve is measured: the task's thresholds, and some beyond so that quartiles of any submission
    lie on it."""
    last = task.success_thresholds_mm[-1]
    return [*task.success_thresholds_mm, *(last * f for f in BEYOND_LAST if last * f < task.missing_error_mm)]


def protect(scores: Scores, submission: Submission, reference: Reference, *, runtimes: dict[str, Any]) -> Aggregates:
    """The aggregates that a protected reference gives away (see the module's text)."""
    task = reference.task
    if reference.secret is None:
        raise ValueError("protected scores need the secret of the reference folder")
    errors = scores.error_mm[scores.scored]
    thresholds = curve_thresholds_mm(task)
    level = noise_level(errors.size, dimension=task.dimension, n_thresholds=len(thresholds))
    key = bytes.fromhex(reference.secret)
    content = content_digest(submission, reference)
    capped = np.where(scores.missing, scores.error_mm, np.minimum(scores.error_mm, CAP_MM))[scores.scored]
    mean = float(capped.mean()) + level.mean_mm * _normal(key, content, "mean")
    rates = [float(np.mean(success(errors, threshold, tie=task.success_tie))) for threshold in thresholds]
    noisy = [rate + level.rate * _normal(key, content, f"rate {k}") for k, rate in enumerate(rates)]
    curve = _as_distribution(np.array(noisy))
    q25, median, q75 = _quantiles(curve, thresholds, cap_mm=task.missing_error_mm)
    kept = len(task.success_thresholds_mm)
    return Aggregates(
        mre_mm=ErrorSummary(
            mean=rounded(max(mean, 0.0), level.mean_mm),
            median=rounded(median, level.mean_mm),
            iqr=rounded(q75 - q25, level.mean_mm),
        ),
        sdr={
            threshold_key(threshold): min(1.0, rounded(rate, level.rate))
            for threshold, rate in zip(thresholds[:kept], curve[:kept].tolist(), strict=True)
        },
        n_missing=int(scores.missing.sum()),
        n_false_alarms=int(scores.false_alarm.sum()),
        noise=Noise(
            mre_mm_sd=level.mean_mm,
            sdr_sd=level.rate,
            error_cap_mm=CAP_MM,
            locate_radius_mm=RADIUS_MM,
            locate_submissions=level.locate_submissions,
        ),
        **runtimes,
    )


def content_digest(submission: Submission, reference: Reference) -> bytes:
    """What the noise depends on: what is scored of the submitted points, and the reference they meet; not how the
    files were written, nor anything else that could be varied for another draw."""
    digest = hashlib.sha256()
    scored = reference.assessed[..., None] & np.isfinite(reference.points_mm)
    for points in (submission.points_mm, reference.points_mm):
        seen = np.where(scored, points, np.nan)[..., : reference.task.dimension]
        digest.update(np.nan_to_num(seen + 0.0, nan=1e300).astype("<f8").tobytes())
    digest.update(reference.rule.encode())
    return digest.digest()


def rounded(value: float, noise_sd: float) -> float:
    """`value` to the decimal place of the noise: further digits would be noise alone.

    >>> rounded(1.23456, 0.025), rounded(0.98765, 0.0078)
    (1.23, 0.988)
    """
    return round(value, max(0, -floor(log10(noise_sd))))


def _normal(key: bytes, content: bytes, name: str) -> float:
    """A standard normal number that only the holder of the key can foretell."""
    drawn = hmac.new(key, content + name.encode(), hashlib.sha256).digest()
    return NormalDist().inv_cdf((int.from_bytes(drawn[:6], "big") + 0.5) / 2**48)


def _as_distribution(noisy: NDArray[np.float64]) -> NDArray[np.float64]:
    """The noisy rates as a success curve: never falling, in 0..1."""
    rising = np.maximum.accumulate(noisy)
    limited = np.minimum.accumulate(noisy[::-1])[::-1]
    return np.clip((rising + limited) / 2, 0.0, 1.0)


def _quantiles(curve: NDArray[np.float64], thresholds: list[float], *, cap_mm: float) -> tuple[float, float, float]:
    """Quartiles by linear interpolation of the success curve from (0 mm, 0) to (cap, 1)."""
    rates = np.concatenate([[0.0], curve, [1.0]])
    at_mm = np.concatenate([[0.0], thresholds, [cap_mm]])
    # np.interp wants strictly rising abscissae where the curve is flat.
    rates = rates + np.arange(rates.size) * 1e-12
    q25, median, q75 = np.interp([0.25, 0.5, 0.75], rates, at_mm).tolist()
    return q25, median, q75
