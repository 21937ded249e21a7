"""What came out of a rehearsal, and the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ops.audit.command import as_plain, shown
from ops.audit.records import Checked
from ops.rehearse.figures import Tally, quantile

LATE_MS = 100.0
RPCS = ("StartSession", "SaveAnswer", "GetSession", "SubmitSession", "GetResult", "score visible")


@dataclass(frozen=True, slots=True)
class Report:
    """A rehearsal that ran to its end. `removed` False: the shadow is still there."""

    exam: str
    shadow: str
    way: str
    students: int
    processes: int
    rate: float
    seconds: float
    tally: Tally
    checks: Sequence[Checked]
    remarks: Sequence[str]
    removed: bool

    @property
    def problems(self) -> Sequence[str]:
        """Return why this was no good day, in sentences; none: all promises held and nothing was refused."""
        return problems(self.students, self.tally, self.checks)


def problems(students: int, tally: Tally, checks: Sequence[Checked]) -> Sequence[str]:
    """Return what spoke against a real day: broken promises, refusals, students without a seat or a score."""
    found = []
    if violations := sum(len(checked.violations) for checked in checks):
        found.append(f"{violations} promises were broken.")
    if tally.refused:
        named = ", ".join(f"{name} ({count:,})" for name, count in tally.refused.most_common(5))
        found.append(f"{sum(tally.refused.values()):,} calls were refused or not answered: {named}.")
    if gave_up := tally.gave_up:
        named = ", ".join(f"{name} ({count:,})" for name, count in gave_up.most_common(5))
        found.append(f"{sum(gave_up.values()):,} times a student gave up: {named}.")
    if dropped := tally.noted["dropped"]:
        found.append(f"{dropped:,} acts were not even begun, since too many were waiting for an answer.")
    for name, what in (("StartSession", "started"), ("SubmitSession", "handed in"), ("results", "got a score")):
        if tally.done[name] < students:
            found.append(f"Only {tally.done[name]:,} of {students:,} students {what}.")
    if not tally.done["SaveAnswer"]:
        found.append("Nobody saved an answer.")
    return found


def remarks(tally: Tally) -> Sequence[str]:
    """Return what a reader of the figures should know, though it is no fault of the stack's."""
    if tally.late_ms <= LATE_MS:
        return []
    return [f"The load itself came up to {tally.late_ms:,.0f} ms late: this machine had too little to spare. The times include it."]


def lines(report: Report) -> list[str]:
    """Return the report for people."""
    said = [
        f"Rehearsal of {report.exam} on {report.shadow}: {report.students:,} students over {report.way}, "
        f"{report.rate:,.1f} saves/s offered for {report.seconds:g} s",
        "",
        f"{'':<14} {'went well':>10} {'per s':>8} {'p50 ms':>9} {'p99 ms':>9} {'max ms':>9}",
    ]
    for name in RPCS:
        times: Mapping[int, int] = report.tally.times.get(name, {})
        if times:
            figures = [quantile(times, share) or 0.0 for share in (0.5, 0.99, 1.0)]
            per_s = f"{report.tally.done[name] / report.seconds:,.1f}" if name == "SaveAnswer" else ""
            cells = " ".join(f"{figure:>9,.1f}" for figure in figures)
            said.append(f"{name:<14} {sum(times.values()):>10,} {per_s:>8} {cells}")
    noted = report.tally.noted
    said += ["", f"{noted['deaths']:,} clients died and resumed; {noted['repeats']:,} saves were sent twice with one key.", ""]
    said += [*shown(report.checks), "", *report.remarks]
    if not report.removed:
        said.append(f"The shadow is still there: finalbell rehearse --remove {report.shadow}")
    found = report.problems
    said += [*found, "Verdict: not ready."] if found else ["Verdict: all promises held, and nothing was refused."]
    return said


def plain(report: Report) -> dict[str, object]:
    """Return the report as JSON's values."""
    times = {
        name: {
            "count": sum(report.tally.times[name].values()),
            **{f"p{share * 100:g}Ms": round(quantile(report.tally.times[name], share) or 0.0, 3) for share in (0.5, 0.9, 0.99)},
            "maxMs": round(quantile(report.tally.times[name], 1.0) or 0.0, 3),
        }
        for name in report.tally.times
    }
    return {
        "exam": report.exam,
        "shadow": report.shadow,
        "way": report.way,
        "students": report.students,
        "processes": report.processes,
        "offeredSavesPerSecond": report.rate,
        "seconds": report.seconds,
        "savesPerSecond": round(report.tally.done["SaveAnswer"] / report.seconds, 1),
        "done": dict(report.tally.done),
        "refused": dict(report.tally.refused),
        "gaveUp": dict(report.tally.gave_up),
        "noted": dict(report.tally.noted),
        "times": times,
        "loadLateMs": round(report.tally.late_ms, 1),
        "audit": as_plain(report.checks),
        "remarks": list(report.remarks),
        "problems": list(report.problems),
        "removed": report.removed,
        "ready": not report.problems,
    }
