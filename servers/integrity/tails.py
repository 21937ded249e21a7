"""Tails of the generalised binomial: how likely at least so many matches are when each item has a chance of its own.

The sum of independent trials with chances p₁ … pₖ (also called Poisson binomial). Exact by recursion, and for screening a closed
form that is never above the exact tail.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Single = NDArray[np.float32]
BATCH = 4_096
"""Pairs whose distributions are computed together: k + 1 rows of 32 KiB, which a processor's cache holds."""


def upper_tail(chances: Floats, matches: NDArray[np.int64]) -> Floats:
    """Return P(S >= matches) of each row of chances (pairs x items), exactly but for rounding.

    The recursion over items only adds and multiplies what is not negative, so that the smallest tail is as exact as the largest
    (Lord & Wingersky, Applied Psychological Measurement 8, 1984; van der Linden & Sotaridona 2006, equation 13).
    """
    found = np.empty(len(chances))
    for at in range(0, len(chances), BATCH):
        found[at : at + BATCH] = _tails(chances[at : at + BATCH], matches[at : at + BATCH])
    return found


def _tails(chances: Floats, matches: NDArray[np.int64]) -> Floats:
    pairs, items = chances.shape
    most = max(np.count_nonzero(chances, axis=1).max(initial=0), matches.max(initial=0))
    if 2 * most < items:  # of shared wrong answers most chances are 0, which change nothing
        chances, items = np.sort(chances, axis=1)[:, items - most :], int(most)
    mass = np.zeros((items + 1, pairs))
    mass[0] = 1
    for item in range(items):
        p = chances[:, item]
        moved = mass[: item + 1] * p
        mass[: item + 1] *= 1 - p
        mass[1 : item + 2] += moved
    at_least = np.cumsum(mass[::-1], axis=0)[::-1]  # from the far end, so that small ones are added up first
    tails: Floats = np.minimum(1.0, at_least[matches, np.arange(pairs)])
    return tails


ROUNDING = 1e-4
"""More than float32 sums of non-negative terms can be off: a product of 1,600 columns, added up one by one, by 2^-24 each, as a
share."""


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """What is known of pairs: how many matches they have, of the items' chances p the sums of p, p² and perhaps p³, and how many
    items they have in common."""

    matches: Single
    mean: Single
    squares: Single
    cubes: Single | None
    trials: Single


def log_tail_bound(sums: Sums) -> Single:
    """Return a number that is never above ln P(S >= matches).

    For matches m above the mean, let t be the tilt under which S has mean m, and K(t) = Σ f(p) with f(p) = ln(1 + p(eᵗ - 1)).

    1. P(S >= m) >= P(S = m) = exp(K(t) - tm) Pₜ(S = m). A generalised binomial whose mean is an integer has its mode there
       (Darroch, Annals of Mathematical Statistics 35, 1964), and the mode of an integer variable with variance v has at least 1 /
       √(1 + 12 v), since with a uniform of width 1 added its density is at most the mode and its variance is v + 1/12, while a
       density of at most h has a variance of at least 1 / (12 h²). Here v <= m (1 - m / trials).
    2. Given Σp, Σp² and Σp³, K(t) is least where all p are 0, x or 1, with x and how many they are solved from the sums: f is
       nowhere below the cubic that meets it at 0 and 1 and touches it at x, since its fourth derivative is negative (so Markov
       and Krein; Karlin & Studden, Tchebycheff Systems, 1966). Without Σp³, where all are 0 or x, likewise. So K(t) >= st + N
       ln(1 + x(eᵗ - 1)) with s for how many are 1 and N for how many are x, and the least of that minus tm over all t is -N KL((m
       - s) / N, x), a binomial's Chernoff exponent. Where m > s + N there is no bound.

    Where m <= Σp the tail is at least 1/2: the median is one of the integers around the mean (Jogdeo & Samuels, Annals of
    Mathematical Statistics 39, 1968). The cubic's factors of p and p³ are positive and that of p² is negative, so that each sum
    is taken at the end of its rounding where the bound is lower, and whether some chances have exactly these sums does not
    matter.
    """
    mean, squares = sums.mean * np.float32(1 - ROUNDING), sums.squares * np.float32(1 + ROUNDING)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        x, number, sure = _extreme(mean, squares, sums.cubes)
        share = (sums.matches - sure) / number
        divergence = share * np.log(share / x) + (1 - share) * np.log((1 - share) / (1 - x))
        spread = np.maximum(sums.matches * (1 - sums.matches / sums.trials), 0)
        bound = -number * divergence * np.float32(1 + ROUNDING) - np.log1p(12 * spread) / 2 - np.float32(ROUNDING)
    sound = np.isfinite(bound) & (x > 0) & (x < 1) & (number > 0)
    found: Single = np.where(sums.matches <= mean, LOG_HALF, np.where(sound, bound, np.float32(-np.inf)))
    return found


def _extreme(mean: Single, squares: Single, cubes: Single | None) -> tuple[Single, Single, Single | float]:
    """Return x, and how many chances are x and how many 1, where all others are 0 and the sums are these."""
    if cubes is None:
        return squares / mean, mean * mean / squares, 0.0
    variance = mean - squares
    x: Single = (squares - cubes * np.float32(1 - ROUNDING)) / variance
    number: Single = variance / (x * (1 - x))
    return x, number, mean - number * x


LOG_HALF = np.float32(np.log(0.5))
