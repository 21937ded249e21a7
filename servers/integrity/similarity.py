"""Answer similarity: pairs of students whose answers agree more than what they know explains. docs/integrity-similarity.md says
what that means, how often it is wrong, and why it is never a verdict.

Three indices, for each pair, by the model of responses.py, with the chance p of at least so many matches between two who worked
alone:

- ω (Wollack, Applied Psychological Measurement 21, 1997): given the answers of one, the source, does the other have more of them
  than expected? Its value is his: (matches - mean) / deviation. Its p is not: he takes the normal's tail, which is too light
  where matches are rare, and a correction for millions of pairs lives in that tail. We take the exact one of the same model. Both
  directions are computed, and the pair's p is twice the smaller one (Bonferroni's bound, whatever the dependence of the two).
- GBT (van der Linden & Sotaridona, Journal of Educational and Behavioral Statistics 31, 2006): the same with neither's answers
  given; an item matches with Σ P(a) P'(a) over its answers, and the number of matches is generalised binomial.
- Shared wrong answers: of the items that both have wrong, how many with the same wrong answer? Given that both are wrong, an
  item's chance is Σ P(a | wrong) P'(a | wrong), and the number is generalised binomial again: Bellezza & Bellezza's analysis of
  shared errors (Teaching of Psychology 16, 1989) with a chance for each item and pair in place of one for all. What both have
  right does not enter.

q is p after the correction of Benjamini & Hochberg (Journal of the Royal Statistical Society B 57, 1995) over all pairs that were
tested, each index on its own: of the pairs flagged at q <= 0.05, 5% at most are expected to be chance, if the model holds.

Memory does not grow with the number of pairs: 8 bytes for each student and column, some matrices of students x items, some thirty
of a block of at most BLOCK x BLOCK and MOST_CELLS in single precision, and 20 bytes for each pair of an index that is about as
strong as what is reported, of which there are MOST_KEPT at most. Matrix products run on as many threads as the environment gives
OpenBLAS (OPENBLAS_NUM_THREADS); a service should give it one.
"""

from dataclasses import dataclass

import numpy as np

from servers.integrity.pairs import Exam, Grouping, Ids, Index, Matches, blocks, gbt, omega, p_values, shared_wrong
from servers.integrity.responses import BLANK, NOT_PRESENTED, Floats, Item, Model, rows_of
from servers.integrity.rushed import fit_unrushed
from servers.integrity.screen import MOST_KEPT, VALUE_EDGES, Screened, block_size, screen

__all__ = [
    "BLANK",
    "MOST_KEPT",
    "NOT_PRESENTED",
    "Analysis",
    "Exam",
    "Grouping",
    "Index",
    "Item",
    "Pair",
    "Summary",
    "adjusted",
    "analyse",
]

FDR = 0.05
ALL_EXACT = 100_000
STRONGEST = 100
MOST_SHOWN = 10_000
FIRST_CUT = 1_000
"""Over all pairs: the p below which pairs are kept for the exact computation; if more are needed, all are gone over again."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair by one index, with what a person wants to see beside it. Flagged means: look. It never means: guilty."""

    students: tuple[str, str]
    index: Index
    value: float
    """How many deviations above what is expected; of ω, Wollack's index."""
    p: float
    q: float
    flagged: bool
    source: str | None
    """ω only: the one whose answers explain the other's better. Weak evidence of who copied."""
    groups: tuple[str, ...]
    """The names of the groupings that they share."""
    compared: int
    """Items that both answered; of shared wrong answers, those that both have wrong."""
    matches: int
    expected: float
    shared_wrong: int
    shared_blank: int


@dataclass(frozen=True, slots=True)
class Summary:
    """An index over all pairs that were tested."""

    index: Index
    flagged: int
    complete: bool
    """False where more than `MOST_KEPT` pairs could be flagged: then only the strongest were corrected, and q is too large if
    anything."""
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    """How many pairs have a value from one edge to the next; the outermost take all beyond. ω counts each pair twice, once each
    way."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """All that was found: pairs by strength, what is flagged first."""

    tested: int
    """How many pairs; each by every index."""
    fdr: float
    rushed: int
    """Students whose answers are left out from some place on (rushed.py)."""
    pairs: tuple[Pair, ...]
    summaries: tuple[Summary, ...]


def analyse(
    exam: Exam, *, fdr: float = FDR, everybody: bool = False, strongest: int = STRONGEST, all_exact: int = ALL_EXACT
) -> Analysis:
    """Compare all pairs of students who share a group, or of all students, and correct for how many that were.

    Returns what is flagged (`MOST_SHOWN` of an index at most), and about the `strongest` of each index if fewer are. Up to
    `all_exact` pairs each one is computed exactly. Beyond, those are that could be flagged or shown, by a bound that no p is
    below (tails.py), so that what is flagged, and its p and q, are the same; a q that does not flag is then an upper limit.
    """
    model, starts = fit_unrushed(exam)
    size = block_size(model)
    tested = sum(int(block.tested.sum()) for block in blocks(exam, everybody=everybody, size=size))
    cut = 0.0 if tested <= all_exact else float(np.log(FIRST_CUT / tested))
    found = screen(model, blocks(exam, everybody=everybody, size=size), dict.fromkeys(Index, cut))
    wanted = dict.fromkeys(Index, 0.0)
    if tested > all_exact:
        wanted = {index: one.wanted(tested, fdr, strongest) for index, one in found.items()}
        limits = {index: min(wanted[index], one.bearable()) for index, one in found.items()}
        if any(limits[index] > one.cut for index, one in found.items()):
            found = screen(model, blocks(exam, everybody=everybody, size=size), limits)
    pairs: list[Pair] = []
    summaries = []
    for index, one in found.items():
        limit = min(wanted[index], one.cut)
        first, second, p, q = _corrected(model, index, one, limit, tested)
        flagged = int((q <= fdr).sum())
        shown = slice(0, min(max(flagged, strongest), MOST_SHOWN))
        pairs += _pairs(exam, model, index, (first[shown], second[shown]), (p[shown], q[shown]), fdr)
        complete = limit >= wanted[index]
        summaries.append(Summary(index, flagged, complete, tuple(VALUE_EDGES.tolist()), tuple(one.values.tolist())))
    pairs.sort(key=lambda pair: (not pair.flagged, pair.p, pair.index, pair.students))
    return Analysis(tested, fdr, int((starts < len(exam.items)).sum()), tuple(pairs), tuple(summaries))


def adjusted(p: Floats, tested: int) -> Floats:
    """Return Benjamini and Hochberg's q of the smallest p of `tested`, in rising order: the least rate at which each is flagged.

    scipy.stats.false_discovery_control is the same for all of them at once.
    """
    ratios = p * tested / np.arange(1, len(p) + 1)
    return np.minimum(1.0, np.minimum.accumulate(ratios[::-1])[::-1])


def _corrected(model: Model, index: Index, found: Screened, limit: float, tested: int) -> tuple[Ids, Ids, Floats, Floats]:
    """Return the pairs whose p is at most e to the `limit`, all of them, by rising p, with p and q."""
    first, second = found.pairs()
    p = p_values(model, index, first, second)
    order = np.lexsort((second, first, p))
    order = order[: np.searchsorted(p[order], np.exp(limit), side="right")]
    return first[order], second[order], p[order], adjusted(p[order], tested)


def _pairs(exam: Exam, model: Model, index: Index, ids: tuple[Ids, Ids], strength: tuple[Floats, Floats], fdr: float) -> list[Pair]:
    """Return the rows of some pairs, made as many at a time as are computed together."""
    rows: list[Pair] = []
    for at in range(0, len(ids[0]), step := rows_of(model.layout)):
        of = slice(at, at + step)
        rows += _rows(exam, model, index, (ids[0][of], ids[1][of]), (strength[0][of], strength[1][of]), fdr)
    return rows


def _rows(exam: Exam, model: Model, index: Index, ids: tuple[Ids, Ids], strength: tuple[Floats, Floats], fdr: float) -> list[Pair]:
    (first, second), (p, q) = ids, strength
    found, sources = _both_ways(model, first, second) if index is Index.OMEGA else (None, None)
    if found is None:
        found = (gbt if index is Index.GBT else shared_wrong)(model, first, second)
    wrong = found if index is Index.SHARED_WRONG else shared_wrong(model, first, second)
    blank = ((exam.answers[first] == BLANK) & (exam.answers[second] == BLANK)).sum(axis=1)
    value, expected = found.value, found.chances.sum(axis=1)
    names = exam.students
    return [
        Pair(
            students=(names[a], names[b]),
            index=index,
            value=float(value[at]),
            p=float(p[at]),
            q=float(q[at]),
            flagged=bool(q[at] <= fdr),
            source=None if sources is None else names[sources[at]],
            groups=tuple(one.name for one in exam.groupings if one.of[a] == one.of[b] >= 0),
            compared=int(found.compared[at]),
            matches=int(found.matches[at]),
            expected=float(expected[at]),
            shared_wrong=int(wrong.matches[at]),
            shared_blank=int(blank[at]),
        )
        for at, (a, b) in enumerate(zip(first.tolist(), second.tolist(), strict=True))
    ]


def _both_ways(model: Model, first: Ids, second: Ids) -> tuple[Matches, Ids]:
    """Return ω in its stronger direction, and who the source is in that."""
    one, other = omega(model, first, second), omega(model, second, first)
    stronger = one.p <= other.p
    chances = np.where(stronger[:, None], one.chances, other.chances)
    return Matches(one.matches, chances, one.compared), np.where(stronger, second, first)
