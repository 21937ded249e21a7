"""How often answer similarity is wrong, how often it finds who copied, and what 10,000 students x 60 items, all pairs, take.

python -m bench.similarity [--only clean late long power banks limits speed …] [--seed 1] [--smoke]

Students are simulated by another model than the fitted one (bench/classes.py). `clean`: nobody copies; the share of pairs with p
at most 0.01 and 0.001, by students and items, and how many exams had a pair flagged. `late`: the same, when three tenths run out
of time. `long`: both, over 100 items. `power`: planted copiers, by share of items, items and abilities. `banks`: the same on
papers of the real banks in ../shared/data, where they are. `limits`: what the model does not know: topics, rooms that were taught
the same mistakes, wrong keys. `speed`: time and memory, in a process of its own, with one thread and with two. Parts can be run
one by one: the figures of the others in the file stay. Everything else runs on one thread. Figures go to
bench/results/similarity.json, a picture beside them. Exit code 1 when more pairs of those who worked alone had a p at most 0.01 or
0.001 than that, beyond chance, in `clean` and `late`.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy  # its parts are loaded when they are used
from numpy.typing import NDArray

from bench.classes import Habits, Question, Sat, bank, by_ability, copy, paper, sit
from bench.local import ROOT
from bench.measure import arguments, keep, table
from servers.integrity.pairs import Index, blocks, gbt, omega, p_values
from servers.integrity.responses import BLANK, Model, fit, rows_of
from servers.integrity.rushed import fit_unrushed
from servers.integrity.similarity import Exam, adjusted, analyse

LEVELS = (0.01, 0.001)
FDR = 0.05
RATES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
BANDS = {
    "weak from good": ((0.05, 0.3), (0.7, 0.95)),
    "middling from good": ((0.35, 0.6), (0.7, 0.95)),
    "weak from weak": ((0.05, 0.3), (0.05, 0.3)),
    "good from good": ((0.7, 0.95), (0.7, 0.95)),
}
NORMAL = "omega, by the normal"
BLANKS = "gbt, blanks as answers"
USUAL, LATE = Habits(), Habits(late=0.3)
BANKS = ROOT.parent / "shared" / "data" / "banks"
BANK_NAMES = ("sat-math", "gaokao-physics", "gsm8k-numeric")

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line said."""

    seed: int
    smoke: bool
    banks: Path


@dataclass(frozen=True, slots=True)
class Rates:
    """Of pairs of students who worked alone, how many had a small p, by an index; and how many exams had a pair flagged."""

    what: str
    students: int
    items: int
    index: str
    pairs: int
    at: dict[str, int]
    exams: int
    exams_with_a_flag: int
    bands: dict[str, float]
    """At 0.01, as a share: of pairs in the upper quarter of scores; in the lower; of one each."""


def tested(exam: Exam) -> tuple[Ids, Ids]:
    """All pairs of each room."""
    first, second = [], []
    for block in blocks(exam, everybody=False):
        rows, columns = np.nonzero(block.tested)
        first.append(block.rows[rows])
        second.append(block.columns[columns])
    return np.concatenate(first), np.concatenate(second)


def every_p(exam: Exam, model: Model, first: Ids, second: Ids) -> dict[str, NDArray[np.float64]]:
    """p by all indices, and by two ways that were not taken: the normal's tail for ω, and blanks as answers like others."""
    found = {str(index): p_values(model, index, first, second) for index in Index}
    others: dict[str, list[NDArray[np.float64]]] = {NORMAL: [], BLANKS: []}
    with_blanks = fit(exam.items, np.where(exam.answers == BLANK, 30_000, exam.answers).astype(np.int16))
    step = rows_of(with_blanks.layout)
    for at in range(0, len(first), step):
        a, b = first[at : at + step], second[at : at + step]
        best = np.maximum(omega(model, a, b).value, omega(model, b, a).value)
        others[NORMAL].append(np.minimum(1.0, 2 * scipy.stats.norm.sf(best)))
        others[BLANKS].append(gbt(with_blanks, a, b).p)
    return found | {name: np.concatenate(values) for name, values in others.items()}


def alone(what: str, questions: Sequence[Question], students: int, exams: int, room: int, habits: Habits, seed: int) -> list[Rates]:
    """Let nobody copy, and count who looks as if."""
    p: dict[str, list[NDArray[np.float64]]] = {}
    kinds, flags = [], dict[str, int]()
    for number in range(exams):
        sat = sit(questions, students, np.random.default_rng([seed, number, students, len(questions)]), habits, room)
        first, second = tested(sat.exam)
        score = np.argsort(np.argsort(sat.ability)) / students
        kinds.append(np.stack([score[first], score[second]]))
        for index, values in every_p(sat.exam, fit_unrushed(sat.exam)[0], first, second).items():
            p.setdefault(index, []).append(values)
            flags[index] = flags.get(index, 0) + bool((adjusted(np.sort(values), len(values)) <= FDR).any())
    rank = np.concatenate(kinds, axis=1)
    bands = {
        "both of the upper quarter": (rank > 0.75).all(axis=0),
        "both of the lower quarter": (rank < 0.25).all(axis=0),
        "one of each": (rank > 0.75).any(axis=0) & (rank < 0.25).any(axis=0),
    }
    rates = []
    for index, lists in p.items():
        values = np.concatenate(lists)
        counts = {str(level): int((values <= level).sum()) for level in LEVELS}
        by = {name: float((values[who] <= LEVELS[0]).mean()) if who.any() else 0.0 for name, who in bands.items()}
        rates.append(Rates(what, students, len(questions), index, len(values), counts, exams, flags[index], by))
    return rates


def sizes(given: Given, what: str, habits: Habits) -> list[Rates]:
    """Exams of several sizes and lengths."""
    found = []
    for students, exams, room in [(60, 1, 0)] if given.smoke else [(100, 10, 0), (1_000, 4, 25), (10_000, 1, 10)]:
        for items in (20,) if given.smoke else (20, 40, 60, 100):
            found += alone(what, paper(items), students, exams, room, habits, given.seed)
    return found


def clean(given: Given) -> list[Rates]:
    """Most students have time enough."""
    return sizes(given, "usual", USUAL)


def late(given: Given) -> list[Rates]:
    """Three tenths run out of time."""
    return sizes(given, "short of time", LATE)


def long(given: Given) -> list[Rates]:
    """More than 100 items."""
    exams, students, lengths = (1, 60, (25,)) if given.smoke else (4, 1_000, (150, 200))
    found = []
    for what, habits in (
        ("usual", USUAL),
        ("short of time", LATE),
        ("short of time, shuffled", Habits(late=0.3, shuffled=True)),
        ("short of time, one letter to the end", Habits(late=0.3, letter=True)),
    ):
        for items in lengths:
            found += alone(what, paper(items), students, exams, 25, habits, given.seed)
    return found


def limits(given: Given) -> list[Rates]:
    """What goes beyond the model."""
    exams, students, items = (1, 60, 20) if given.smoke else (4, 600, 60)
    found = []
    for what, habits in (
        ("a fifth of the variance by topic", Habits(topics=0.2)),
        ("two fifths of the variance by topic", Habits(topics=0.4)),
        ("a weak class: mean 1.5 deviations below the paper", Habits(level=-1.5, guess=0.3)),
        ("a strong class: mean 1.5 deviations above the paper", Habits(level=1.5)),
        ("rooms taught the same mistake on 5% of questions", Habits(misconceptions=0.05)),
        ("rooms taught the same mistake on 10% of questions", Habits(misconceptions=0.1)),
        ("rooms taught the same mistake on 20% of questions", Habits(misconceptions=0.2)),
        ("a tenth of the keys wrong", Habits(wrong_keys=0.1)),
        ("a fifth of the keys wrong", Habits(wrong_keys=0.2)),
    ):
        found += alone(what, paper(items), students, exams, 30, habits, given.seed)
    return found


def banks(given: Given) -> dict[str, Any]:
    """Papers of real banks."""
    rates, powers, absent = [], [], []
    for name in BANK_NAMES:
        for items in (20,) if given.smoke else (40, 100):
            questions = bank(given.banks / f"{name}.json", items)
            if questions is None:
                absent.append(name)
                break
            for what, habits in (
                ("usual", USUAL),
                ("short of time", LATE),
                ("weak", Habits(level=-1)),
                ("strong", Habits(level=1)),
            ):
                rates += alone(f"{name}, {what}", questions, 60 if given.smoke else 1_000, 1, 50, habits, given.seed)
            powers += planted(name, questions, 0.5, 1 if given.smoke else 2, given.seed)
    return {"clean": rates, "power": powers, "absent": absent}


@dataclass(frozen=True, slots=True)
class Power:
    """Of planted pairs, how many were found, by an index and a kind of pair."""

    what: str
    items: int
    share: float
    kind: str
    index: str
    planted: int
    at: dict[str, int]
    flagged: int
    false: int
    """Pairs flagged in all these exams that were not planted, whatever the kind."""


def planted(what: str, questions: Sequence[Question], share: float, exams: int, seed: int) -> list[Power]:
    """Have some copy among 400 students, all pairs of whom are compared."""
    each, students = (2, 100) if exams == 1 else (6, 400)
    found: dict[tuple[str, str], list[float]] = {}
    flags: dict[tuple[str, str], int] = {}
    false = dict.fromkeys(map(str, Index), 0)
    for number in range(exams):
        chance = np.random.default_rng([seed, number, len(questions), round(100 * share)])
        sat = sit(questions, students, chance, USUAL)
        sat = copy(sat, by_ability(sat, chance, each, list(BANDS.values())), share, chance)
        kinds = dict(zip(map(frozenset, _names(sat)), (kind for kind in BANDS for _ in range(each)), strict=True))
        for pair in (one for one in analyse(sat.exam, everybody=True, fdr=FDR, all_exact=0).pairs if one.flagged):
            kind = kinds.get(frozenset(pair.students))
            if kind is None:
                false[pair.index] += 1
            else:
                flags[kind, pair.index] = flags.get((kind, pair.index), 0) + 1
        model, _ = fit_unrushed(sat.exam)
        first, second = np.array(sat.copied).T
        for index in Index:
            for kind, p in zip(kinds.values(), p_values(model, index, first, second).tolist(), strict=True):
                found.setdefault((kind, str(index)), []).append(p)
    rows = []
    for (kind, name), values in found.items():
        counts = {str(level): sum(p <= level for p in values) for level in LEVELS}
        row = Power(what, len(questions), share, kind, name, len(values), counts, flags.get((kind, name), 0), false[name])
        rows.append(row)
    return rows


def _names(sat: Sat) -> list[tuple[str, str]]:
    return [(sat.exam.students[copier], sat.exam.students[source]) for copier, source in sat.copied]


def power(given: Given) -> list[Power]:
    """Planted copiers, by share of items, items and abilities."""
    found = []
    for items in (20,) if given.smoke else (20, 40, 60, 100):
        for share in (0.5,) if given.smoke else RATES:
            found += planted("usual", paper(items), share, 1 if given.smoke else 4, given.seed)
    return found


def speed(given: Given) -> list[dict[str, Any]]:
    """Time and memory, each in a process of its own."""
    found = []
    for threads in (1, 2):
        command = [sys.executable, "-m", "bench.similarity", "--measure", "500" if given.smoke else "10000"]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads)}
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, timeout=1_800)
        found.append({"threads": threads, **json.loads(done.stdout)})
    return found


def measure(students: int, items: int = 60) -> dict[str, Any]:
    """Analyse all pairs of one exam with 20 copiers, in this process."""
    chance = np.random.default_rng(1)
    sat = sit(paper(items), students, chance, USUAL)
    sat = copy(sat, by_ability(sat, chance, 5, list(BANDS.values())), 0.7, chance)
    before, began, used = _peak(), time.perf_counter(), time.process_time()
    found = analyse(sat.exam, everybody=True)
    took, cpu = time.perf_counter() - began, time.process_time() - used
    true = set(map(frozenset, _names(sat)))
    hits = dict.fromkeys(map(str, Index), 0)
    for pair in found.pairs:
        hits[pair.index] += pair.flagged and frozenset(pair.students) in true
    return {
        **{"students": students, "items": items, "pairs": found.tested, "seconds": took, "cpuSeconds": cpu},
        **{"peakMiB": _peak(), "beforeMiB": before, "planted": len(true), "found": hits},
        "flagged": {str(one.index): one.flagged for one in found.summaries},
    }


def _peak() -> float:
    """The most memory that this process ever had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


PARTS: dict[str, Callable[[Given], Any]] = {
    "clean": clean,
    "late": late,
    "long": long,
    "power": power,
    "banks": banks,
    "limits": limits,
    "speed": speed,
}


def show_rates(title: str, rates: Sequence[dict[str, Any]]) -> None:
    """Print false positives as shares of what is nominal: above 1 is too many."""
    rows = []
    for one in rates:
        shares = [f"{one['at'][str(level)] / one['pairs'] / level:.2f}" for level in LEVELS]
        flags = f"{one['exams_with_a_flag']} of {one['exams']}"
        rows.append((one["what"], one["students"], one["items"], one["index"], f"{one['pairs']:,}", *shares, flags))
    head = ("what", "students", "items", "index", "pairs", *(f"at {level}, x nominal" for level in LEVELS), "exams with a flag")
    table(title, head, rows)


def show_power(title: str, powers: Sequence[dict[str, Any]]) -> None:
    """Print which share of planted pairs was found."""
    rows = []
    for one in powers:
        found = [one["at"][str(level)] / one["planted"] for level in LEVELS]
        shares = (f"{value:.2f}" for value in (*found, one["flagged"] / one["planted"]))
        rows.append((one["what"], one["items"], one["share"], one["kind"], one["index"], one["planted"], *shares, one["false"]))
    head = ("what", "items", "copied", "who", "index", "pairs", *(f"p <= {level}" for level in LEVELS), "flagged", "false flags")
    table(title, head, rows)


def show(figures: dict[str, Any]) -> None:
    """Print what there is."""
    show_rates("Nobody copied", [*figures.get("clean", []), *figures.get("late", [])])
    show_rates("Nobody copied, long exams", figures.get("long", []))
    show_rates("What the model does not know", figures.get("limits", []))
    show_power("Planted copiers", figures.get("power", []))
    if "banks" in figures:
        show_rates("Real banks, nobody copied", figures["banks"]["clean"])
        show_power("Real banks, planted copiers", figures["banks"]["power"])
        print("".join(f"SKIPPED: the bank {name} is not here\n" for name in figures["banks"]["absent"]))
    head = ("threads", "students", "items", "pairs", "s", "CPU-s", "peak MiB", "flagged", "planted", "found")
    names = ("threads", "students", "items", "pairs", "seconds", "cpuSeconds", "peakMiB", "flagged", "planted", "found")
    table("Time and memory", head, [[one[name] for name in names] for one in figures.get("speed", [])])


def too_many(rates: Sequence[dict[str, Any]]) -> list[str]:
    """Say where more pairs than nominal had a small p, with a probability below 1 in 10,000 if the rate were that."""
    return [
        f"{one['index']} at {level}: {one['what']}, {one['students']} students, {one['items']} items"
        for one in rates
        for level in LEVELS
        if one["index"] in set(map(str, Index)) and scipy.stats.binom.sf(one["at"][str(level)] - 1, one["pairs"], level) < 1e-4
    ]


def plain(found: Any) -> Any:
    """Turn rows into dicts."""
    if isinstance(found, Rates | Power):
        return asdict(found)
    if isinstance(found, dict):
        return {name: plain(value) for name, value in found.items()}
    return [plain(one) for one in found] if isinstance(found, list) else found


def main() -> None:
    parser: argparse.ArgumentParser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="a smoke of everything: figures mean nothing")
    parser.add_argument("--measure", type=int, metavar="STUDENTS", help=argparse.SUPPRESS)
    parser.add_argument(
        "--banks", type=Path, default=ROOT.parent / "shared" / "data" / "banks", help="the folder of the real banks"
    )
    given = parser.parse_args()
    asked = Given(given.seed, given.smoke, given.banks)
    if given.measure:
        print(json.dumps(measure(given.measure)))
        return
    if "OPENBLAS_NUM_THREADS" not in os.environ:  # it is read when numpy is loaded
        again = [sys.executable, "-m", "bench.similarity", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, "OPENBLAS_NUM_THREADS": "1"})  # noqa: S606
    file = given.results / "similarity.json"
    figures = json.loads(file.read_text()) if file.exists() and not given.smoke else {}
    figures.pop("machine", None)
    for name in given.only:
        began = time.perf_counter()
        figures[name] = plain(PARTS[name](asked))
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
        keep(given.results, "similarity", figures)
    show(figures)
    from bench.plot import draw_similarity  # not where somebody only imports this: pyplot takes a second

    draw_similarity(file, file.with_suffix(".svg"))
    wrong = too_many([*figures.get("clean", []), *figures.get("late", [])])
    for what in wrong:
        print(f"TOO MANY: {what}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
