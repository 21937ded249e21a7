"""Draws what bench/saves.py measured (saves that went through, and how long they took, against those offered), and submits.py.

python -m bench.plot [bench/results/saves.json] [bench/results/saves.svg]
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.measure import RESULTS

COLOURS = {"native": "#1b6ca8", "grpcio": "#c8553d"}


def draw(measured: Path, to: Path) -> None:
    """Draw the open loop's runs of each engine, through the gateway."""
    figures, picture, through, waits = _panels(measured)
    for engine, found in figures["finalbell"].items():
        runs = sorted(found["restAt"].values(), key=lambda run: float(run["offered"]))
        offered = [run["offered"] for run in runs]
        _line(through, offered, [run["per_second"] for run in runs], engine)
        _line(waits, offered, [run["p99_ms"] for run in runs], f"{engine}, p99")
        waits.plot(offered, [run["p50_ms"] for run in runs], "--", color=COLOURS[engine], label=f"{engine}, p50", linewidth=1)
    through.set(xlabel="saves offered per second", ylabel="saved per second", title="REST through the gateway")
    waits.set(xlabel="saves offered per second", ylabel="ms, from when it was due", yscale="log", title="How long a save takes")
    waits.axhline(100, color="#999", linewidth=0.8, linestyle=":")
    for axes in (through, waits):
        axes.legend(frameon=False)
        axes.grid(alpha=0.25)
    _keep(picture, to, f"{_cores(figures)}, load included; C = {figures['c']['median']:,.0f}")


def draw_submits(measured: Path, to: Path) -> None:
    """Draw what waited for its score, and who was ranked, from the first submit of each burst (or from the bell) on."""
    figures, picture, waiting, ranked = _panels(measured)
    for burst in (one for one in figures["bursts"] if one["backlog"]):
        seconds, backlog, placed = zip(*burst["backlog"], strict=True)
        waiting.plot(seconds, backlog, label=burst["name"], linewidth=1)
        ranked.plot(seconds, placed, label=burst["name"], linewidth=1)
    waiting.set(xlabel="seconds", ylabel="handed in, not scored yet", title="The backlog")
    ranked.set(xlabel="seconds", ylabel="students on the board", title="Scored and ranked")
    waiting.legend(frameon=False)
    for axes in (waiting, ranked):
        axes.grid(alpha=0.25)
    _keep(picture, to, f"{_cores(figures)}, load included; C = {figures['c']['median']:,.0f}")


def draw_boards(measured: Path, to: Path) -> None:
    """Draw how old frames are when they arrive, and what they cost, against how many watch."""
    figures, picture, ages, cores = _panels(measured)
    names = {"grpc": "gRPC, direct", "gateway": "gRPC, gateway", "sse": "SSE, gateway"}
    for number, (way, name) in enumerate(names.items()):
        found = [one for one in figures["crowds"] if one["way"] == way and not one["killed"]]
        for stalled, style in ((False, "o-"), (True, "x--")):
            some = [one for one in found if bool(one["stalled"]) == stalled]
            watchers = [one["watchers"] for one in some]
            label = f"{name}, 1 in {round(1 + some[0]['watchers'] / some[0]['stalled'])} stalled" if stalled and some else name
            if some:
                ages.plot(watchers, [one["p99_ms"] for one in some], style, color=f"C{number}", label=label, markersize=4)
            if some and not stalled:
                cores.plot(
                    watchers, [one["cores"]["leaderboard"] for one in some], "o-", color=f"C{number}", label=name, markersize=4
                )
                cores.plot(watchers, [one["cores"]["envoy"] for one in some], ":", color=f"C{number}", linewidth=1)
    ages.set(xlabel="watchers", ylabel="ms, p99", yscale="log", title="How old a frame is when it arrives")
    ages.axhline(1000, color="#999", linewidth=0.8, linestyle=":")
    cores.set(xlabel="watchers", ylabel="cores", title="What one frame a second costs (dotted: Envoy)")
    for axes in (ages, cores):
        axes.grid(alpha=0.25)
    cores.legend(frameon=False)
    _keep(picture, to, f"{_cores(figures)}, load included; C = {figures['c']['median']:,.0f}")


def draw_signals(measured: Path, to: Path) -> None:
    """Draw every pair: saves without and with signals, by how well the pipeline is."""
    figures, picture, p99, most = _panels(measured)
    for axes, pairs, figure in ((p99, "at_rate", "p99_ms"), (most, "closed", "per_second")):
        for place, state in enumerate(figures["states"]):
            for pair in state[pairs]:
                both = [pair["without"][figure], pair["with_"][figure]]
                axes.plot([place - 0.15, place + 0.15], both, "o-", color=f"C{place}", markersize=4)
        axes.set_xticks(range(len(figures["states"])), [state["name"] for state in figures["states"]])
        axes.set(ylim=(0, None))
        axes.grid(alpha=0.25, axis="y")
    p99.set(ylabel="ms, p99", title="Saves at half of what goes through")
    most.set(ylabel="saves/s", title="Saves as fast as they go")
    offered = f"left: without signals, right: with {figures['signals_of_c']:.1f} C of them a second"
    _keep(picture, to, f"{offered}; {_cores(figures)}")


def draw_similarity(measured: Path, to: Path) -> None:
    """Draw how often students who worked alone look as if they had copied, and how often copiers are found."""
    figures, picture, false, found = _panels(measured)
    names = {
        "omega": "ω",
        "gbt": "GBT",
        "shared_wrong": "shared wrong answers",
        "omega, by the normal": "ω by the normal (not used)",
    }
    for number, (index, name) in enumerate(names.items()):
        rows = [one for one in (*figures.get("clean", []), *figures.get("late", [])) if one["index"] == index]
        items = sorted({one["items"] for one in rows})
        for level, style in (("0.01", "o-"), ("0.001", "s:")):
            shares = [[one["at"][level] / one["pairs"] / float(level) for one in rows if one["items"] == at] for at in items]
            label = f"{name}, p ≤ {level}" if level == "0.01" else None
            false.plot(items, [sum(some) / len(some) for some in shares], style, color=f"C{number}", label=label, markersize=4)
    false.axhline(1, color="#999", linewidth=0.8)
    false.set(xlabel="items", ylabel="times the nominal rate", title="Who worked alone (dotted: p ≤ 0.001)", ylim=(0, None))
    rows = [one for one in figures.get("power", []) if one["index"] == "gbt"]
    for number, items in enumerate(sorted({one["items"] for one in rows})):
        some = [one for one in rows if one["items"] == items]
        shares = sorted({one["share"] for one in some})
        hits = [[(one["flagged"], one["planted"]) for one in some if one["share"] == share] for share in shares]
        rates = [sum(hit for hit, _ in pairs) / sum(all_ for _, all_ in pairs) for pairs in hits]
        found.plot(shares, rates, "o-", color=f"C{number}", label=f"{items} items", markersize=4)
    found.set(xlabel="share of items copied", ylabel="share of pairs flagged by GBT", title="Who copied (q ≤ 0.05 of 79,800 pairs)")
    for axes in (false, found):
        axes.grid(alpha=0.25)
        if axes.lines[1:]:
            axes.legend(frameon=False, fontsize=7)
    _keep(picture, to, "simulated students, by another model than the fitted one")


def _panels(measured: Path) -> tuple[dict[str, Any], Figure, Axes, Axes]:
    """Return figures, and a picture with two panels for them: the same figures give the same bytes."""
    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "finalbell", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    picture, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), constrained_layout=True)
    return json.loads(measured.read_text()), picture, left, right


def _keep(picture: Figure, to: Path, below: str) -> None:
    picture.supxlabel(below, fontsize=7, color="#666")
    picture.savefig(to, metadata={"Date": None})


def _cores(figures: Mapping[str, Any]) -> str:
    machine = figures["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores for everything"


def _line(axes: Axes, x: list[float], y: list[float], label: str) -> None:
    axes.plot(x, y, "o-", color=COLOURS[label.split(",")[0]], label=label, markersize=4)


if __name__ == "__main__":
    source, target = [*map(Path, sys.argv[1:]), RESULTS / "saves.json", RESULTS / "saves.svg"][:2]
    draw(source, target)
