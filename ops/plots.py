"""The picture of an exam's questions: difficulty against discrimination. The one module that needs matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finalbell.v1.scoring_pb2 import ItemStatistics, QuestionStatistics
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from ops.statistics import flags

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

KINDS = (
    ("SUSPECT_KEY", "suspect key", "#c1121f"),
    ("NEGATIVE_DISCRIMINATION", "negative discrimination", "#e85d04"),
    ("LOW_DISCRIMINATION", "low discrimination", "#e0a100"),
    ("TOO_HARD", "too hard", "#7b2cbf"),
    ("TOO_EASY", "too easy", "#0077b6"),
)
"""The flags that have a colour and whose questions are named, gravest first; with them a question shows the first it has."""

CALM = "#6c757d"
OFFSETS = [(x, y) for far in (1, 2, 3, 5) for x, y in ((9, 5 * far), (9, -11 * far), (-9, 5 * far), (-9, -11 * far))]
"""Where a label may stand, in points from its dot, the nearest first."""


def draw(found: ItemStatistics, file: Path) -> None:
    """Write the picture as SVG, PNG or PDF, by the file's suffix; raises OSError where it cannot be written.

    Questions without both figures are left out: voided ones, and those where all earned the same.
    """
    figure = Figure(figsize=(9, 6), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    shown = [one for one in found.questions if one.HasField("difficulty") and one.HasField("discrimination")]
    _background(axes, shown)
    grouped: dict[str, list[QuestionStatistics]] = {}
    for one in shown:
        grouped.setdefault(next((kind for kind, _, _ in KINDS if kind in flags(one)), ""), []).append(one)
    for kind, name, colour in (*KINDS, ("", "no flag, or an unused distractor only", CALM)):
        if kind in grouped:
            _dots(axes, grouped[kind], f"{name} ({len(grouped[kind])})", colour)
    axes.set_title(f"{found.exam_id}: {len(shown)} questions, {found.results:,} results", loc="left", fontsize=13, pad=12)
    if grouped:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=3, frameon=False, fontsize=9)
    figure.draw_without_rendering()  # labels find room among dots that know where they are
    _labels(axes, [one for kind, _, _ in KINDS for one in grouped.get(kind, [])])
    figure.savefig(file, dpi=150)


def _background(axes: "Axes", shown: Sequence[QuestionStatistics]) -> None:
    """Set limits, name the axes, and shade where a question should not be."""
    lowest = min([0.0, *(one.discrimination for one in shown)])
    highest = max([0.5, *(one.discrimination for one in shown)])
    left = min([0.0, *(one.difficulty for one in shown)])
    axes.set_xlim(left - 0.03, 1.03)
    axes.set_ylim(lowest - 0.08, highest + 0.08)
    axes.axhspan(lowest - 1, 0, color="#c1121f", alpha=0.07, lw=0)
    axes.axhspan(0, 0.10, color="#e0a100", alpha=0.09, lw=0)
    for difficulty in (0.20, 0.95):
        axes.axvline(difficulty, color="#adb5bd", lw=0.9, ls=(0, (4, 3)), zorder=1)
    axes.set_xlabel("difficulty: share of the points that were earned (right: easier)")
    axes.set_ylabel("discrimination: correlation with the rest of the exam")
    axes.grid(color="#e9ecef", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _dots(axes: "Axes", questions: Sequence[QuestionStatistics], label: str, colour: str) -> None:
    x, y = [one.difficulty for one in questions], [one.discrimination for one in questions]
    calm = colour == CALM
    axes.scatter(
        x, y, s=34 if calm else 52, c=colour, alpha=0.6 if calm else 0.95, edgecolors="white", lw=0.8, label=label, zorder=3
    )


def _labels(axes: "Axes", questions: Sequence[QuestionStatistics]) -> None:
    """Name questions, each at the nearest place where it covers no other name, or else at the first."""
    taken: list[Bbox] = []
    for one in questions:
        places = [_label(axes, one, offset) for offset in OFFSETS]
        free = [place for place in places if not any(place.get_window_extent().overlaps(other) for other in taken)]
        chosen = free[0] if free else places[0]
        for place in places:
            if place is not chosen:
                place.remove()
        taken.append(chosen.get_window_extent())


def _label(axes: "Axes", one: QuestionStatistics, offset: tuple[int, int]) -> "Annotation":
    return axes.annotate(
        one.question_id,
        (one.difficulty, one.discrimination),
        xytext=offset,
        textcoords="offset points",
        ha="left" if offset[0] > 0 else "right",
        va="center",
        fontsize=9,
        arrowprops={"arrowstyle": "-", "color": "#adb5bd", "lw": 0.7, "shrinkA": 0, "shrinkB": 3},
        zorder=4,
    )
