"""A case as a report that a person can read and print: one HTML file that loads nothing and runs nothing. Every text is escaped by
the template; nothing in it judges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from finalbell.v1 import integrity_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from servers.integrity.plots import Mark, Plot, Tick, histogram, timeline
from servers.integrity.sheets import TYPED, meaning
from servers.marking import FITTING
from stores.records import Answer, AnswerKind

COLOURS = ("#1f5fbf", "#c2570c", "#2d7d46", "#7b3fa0", "#0f7c8a", "#a8326b", "#6b6b1e", "#4a4a4a")
"""Told apart by who sees no red or no green, on paper too: every second one is drawn as a square."""

LISTED = 60
"""Signals of a student that are listed."""

NAMES = {"omega": "ω", "gbt": "GBT", "shared_wrong": "shared wrong"}
MILLISECONDS = {"FOCUS_REGAINED", "FULL_SCREEN_LEFT", "PING"}
CHARACTERS = {"COPY", "CUT", "PASTE"}
GROUPINGS = {
    "COHORT": "within cohorts",
    "ROOM": "within rooms",
    "ADDRESS_RANGE": "within address ranges",
    "EVERYBODY": "everybody with everybody",
}


@dataclass(frozen=True, slots=True)
class Shown:
    """A student as the report shows them."""

    message: pb.CaseStudent
    letter: str
    colour: str
    square: bool

    @property
    def right(self) -> int:
        """How many answers are right."""
        return sum(one.right for one in self.message.answers)

    @property
    def signals(self) -> Sequence[pb.CaseSignal]:
        """The signals that are listed."""
        return self.message.seen.signals[:LISTED]

    @property
    def more(self) -> int:
        """How many are not."""
        return max(0, len(self.message.seen.signals) - LISTED) + self.message.seen.more

    @property
    def reported(self) -> str:
        """From how many places the session was reported on."""
        seen = self.message.seen
        if not seen.devices and not seen.addresses:
            return "not known"
        return f"{_many(seen.devices, 'named device')}, {_many(seen.addresses, 'address', 'addresses')}"

    def answers(self) -> Mapping[str, pb.CaseAnswer]:
        """Return the answers by question."""
        return {one.question_id: one for one in self.message.answers}


@dataclass(frozen=True, slots=True)
class Row:
    """A question, and what each student answered."""

    question: pb.CaseQuestion
    cells: Sequence[pb.CaseAnswer | None]

    @property
    def alike(self) -> bool:
        """Whether two students answered, and the same, as the indices count it: what is typed and right is one answer."""
        answers = [one for one in self.cells if one]
        if len(answers) < 2 or len(self.cells) > 2:
            return False
        one, other = (Answer(FITTING.get(self.question.type, AnswerKind.CHOICE), answer.answer) for answer in answers)
        both_right = all(answer.right for answer in answers)
        return meaning(one) == meaning(other) or (self.question.type in TYPED and both_right)

    @property
    def kind(self) -> str:
        """How the row looks: all the same, or the same and not right."""
        if not self.alike:
            return ""
        return "same" if any(one.right for one in self.cells if one) else "bad"

    @property
    def same(self) -> str:
        """The same in words."""
        return {"": "", "same": "same", "bad": "same, not right"}[self.kind]

    @property
    def apart(self) -> str:
        """How far apart in time two answers are."""
        times = [one.answered_at.ToMilliseconds() for one in self.cells if one and one.HasField("answered_at")]
        return _span(abs(times[1] - times[0]) / 1000) if len(times) == 2 else ""


def report(case: pb.IntegrityCase) -> str:
    """Return the report."""
    evidence = case.evidence
    students = [Shown(one, "ABCDEFGH"[at], COLOURS[at % len(COLOURS)], bool(at % 2)) for at, one in enumerate(evidence.students)]
    letters = {one.message.session_id: one.letter for one in students}
    answers = [one.answers() for one in students]
    rows = [Row(question, [of.get(question.question_id) for of in answers]) for question in evidence.questions]
    analysis = evidence.analysis if evidence.HasField("analysis") else None
    pairs = [_pair(pair, letters) for pair in evidence.pairs]
    return PAGE.render(
        case=case,
        state=_spoken(pb.IntegrityCase.State.Name(case.state)),
        evidence=evidence,
        students=students,
        analysis=analysis,
        groupings=", ".join(GROUPINGS[pb.Analysis.Grouping.Name(one)] for one in analysis.groupings) if analysis else "",
        pairs=pairs,
        shared=_shared(evidence.pairs, letters),
        histograms=[_histogram(one, evidence.pairs, letters) for one in (analysis.indices if analysis else ()) if sum(one.counts)],
        timeline=_timeline(students, rows),
        timings=[_timing(one, letters) for one in evidence.timings],
        rows=rows,
        steps=[{"message": step, "words": _step(step)} for step in case.steps],
    )


# Words


def _spoken(name: str) -> str:
    return name.lower().replace("_", " ")


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count} {one if count == 1 else more or f'{one}s'}"


def _when(at: Timestamp) -> str:
    return datetime.fromtimestamp(at.seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _clock(at: Timestamp) -> str:
    return datetime.fromtimestamp(at.seconds, UTC).strftime("%H:%M:%S")


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _amount(signal: pb.CaseSignal) -> str:
    """Return a signal's amount with its unit, or its details as they were kept."""
    if signal.kind in MILLISECONDS:
        return _span(signal.amount / 1000)
    if signal.kind in CHARACTERS:
        return f"{signal.amount:.0f} characters"
    return f"{signal.amount:.0f}" if signal.amount else ("" if signal.details == "{}" else signal.details)


def _chance(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def _words(pair: pb.SimilarPair) -> str:
    """Say what p says. "About one in": never "the chance that they copied"."""
    if pair.p > 0.5:
        return "no more than two who worked alone usually have"
    one_in = f"about one in {float(f'{1 / pair.p:.1e}'):,.0f}" if pair.p >= 1e-12 else "fewer than one in a million million"
    return f"of pairs who worked alone, {one_in} has so many"


def _pair(pair: pb.SimilarPair, letters: Mapping[str, str]) -> Mapping[str, object]:
    return {
        "message": pair,
        "letters": _letters(pair.session_ids, letters),
        "name": NAMES.get(pair.index, pair.index),
        "p": _chance(pair.p),
        "q": _chance(pair.q),
        "words": _words(pair),
    }


def _letters(sessions: Sequence[str], letters: Mapping[str, str]) -> str:
    return " and ".join(sorted(letters[session] for session in sessions))


def _shared(pairs: Sequence[pb.SimilarPair], letters: Mapping[str, str]) -> Sequence[str]:
    """Say once for each pair what they share besides answers."""
    said: dict[str, str] = {}
    for pair in pairs:
        who = _letters(pair.session_ids, letters)
        near = f"share {', '.join(pair.groups)}" if pair.groups else "share no cohort, room or address range"
        blank = f"; both left out {_many(pair.shared_blank, 'question')}, which no index counts" if pair.shared_blank else ""
        said.setdefault(who, f"{who} {near}{blank}.")
    return list(said.values())


def _timing(one: pb.CaseTiming, letters: Mapping[str, str]) -> str:
    timing = one.timing
    who, close, other = _letters(one.session_ids, letters), timing.within_30_seconds, timing.other_within_30_seconds
    return (
        f"{who}: of {_many(timing.same_answers, 'answer')} that are the same, {close} were given within 30 seconds of each "
        f"other; of {_many(timing.other_answers, 'answer')} that differ, {other}. Who sits the same exam at the same time is close "
        "anyway: compare the two numbers."
    )


def _step(step: pb.CaseStep) -> str:
    to = _spoken(pb.IntegrityCase.State.Name(step.to_state))
    return f"{_spoken(pb.IntegrityCase.State.Name(step.from_state))} → {to}" if step.from_state else to


# Plots


def _timeline(students: Sequence[Shown], rows: Sequence[Row]) -> Plot:
    """Draw all answers by time and place in the paper. Sessions that did not overlap are laid over each other by their starts."""
    starts = [one.message.started_at.ToMilliseconds() for one in students]
    ends = [
        max([start, *(_ms(answer) for answer in one.message.answers if answer.HasField("answered_at"))])
        for start, one in zip(starts, students, strict=True)
    ]
    together = max(starts) <= min(ends)
    bases = [min(starts)] * len(starts) if together else starts
    marks, ticks = [], []
    places = {row.question.question_id: row.question.position for row in rows}
    for at, (one, base) in enumerate(zip(students, bases, strict=True)):
        marks += [
            Mark(at, (_ms(answer) - base) / 1000, places[answer.question_id], answer.question_id, right=answer.right)
            for answer in one.message.answers
            if answer.HasField("answered_at")
        ]
        ticks += [
            Tick(at, (signal.at.ToMilliseconds() - base) / 1000, signal.amount / 1000 if signal.kind in MILLISECONDS else 0.0)
            for signal in one.message.seen.signals
        ]
    alike = {row.question.question_id: row.kind for row in rows if row.alike}
    looks = [(one.letter, one.colour, one.square) for one in students]
    last = max((row.question.position for row in rows), default=0)
    drawn = timeline(looks, marks, ticks, alike, last, min(starts) // 1000 if together else None)
    axis = "the time of day (UTC)" if together else "time since each student's own start, since they did not sit at the same time"
    joined = " A line joins two answers that are the same: grey where right, red where not right." if alike else ""
    caption = (
        f"Each mark is an answer as it was last changed. Along: {axis}. Upwards: the question's place in the paper; students may "
        f"have seen another order. Hollow marks are not right.{joined} Below: signals around each session, when their clients say "
        "that they were; a bar is a time away."
    )
    return Plot(drawn, caption)


def _histogram(summary: pb.IndexSummary, pairs: Sequence[pb.SimilarPair], letters: Mapping[str, str]) -> Plot:
    """Draw how an index is distributed over all tested pairs, with the case's pairs marked."""
    marked = [(_letters(pair.session_ids, letters), pair.value, pair.flagged) for pair in pairs if pair.index == summary.index]
    name = NAMES.get(summary.index, summary.index)
    twice = " Each pair is in it twice, once each way." if summary.index == "omega" else ""
    here = "The line marks the pair of this case." if len(marked) == 1 else "Lines mark the pairs of this case."
    absent = "The pair of this case was not among those that the run kept for this index."
    caption = (
        f"How {name} is distributed over all pairs that were compared, in deviations above what is expected. The scale upwards is "
        "logarithmic."
        f"{twice} {here if marked else absent}"
    )
    return Plot(histogram(name, summary.edges, summary.counts, marked), caption)


def _ms(answer: pb.CaseAnswer) -> int:
    return int(answer.answered_at.ToMilliseconds())


def _page() -> Environment:
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"when": _when, "clock": _clock, "spoken": _spoken, "amount": _amount}
    return environment


PAGE = _page().get_template("report.html")
