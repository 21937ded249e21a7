"""I16 and I17: standings and boards say what the results say."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import inf

from ops.audit.kept import Board, Exam, Result, Session, Standing, Stores
from ops.audit.records import Checked, Evidence, Violation
from ops.audit.rules import order_key, ranks, tie_break


def boards_say_what_results_say(evidence: Evidence) -> Checked:
    """I16, I17: standings are the best scored results by the published rule, and each board in Redis is exactly those.

    Which cohorts there are is asked of the sessions: a standing that forgot its cohorts must not hide a board that is missing.
    """
    stores, broken, facts = evidence.stores, [], 0
    for exam in stores.exams.values():
        best = _best(exam, stores)
        standings = {standing.student: standing for standing in stores.standings if standing.exam == exam.id}
        facts += len(best)
        for student in best.keys() | standings.keys():
            standing, cohorts = standings.get(student), stores.cohorts_of.get((exam.id, student), frozenset())
            wrong = _misplaced(best.get(student), standing) or _misgrouped(cohorts, standing) or _wrongly_held(exam, standing)
            broken += [Violation("I17", exam.id, f"student {student}: {wrong}.")] if wrong else []
        placed = _placed(best, exam, stores)
        for cohort, keys in placed.items():
            broken += [Violation("I16", exam.id, what) for what in _unlike(keys, cohort, exam, stores)]
        facts_seen, wrong_ranks = _shown_ranks(exam, placed[None], evidence)
        facts += facts_seen
        broken += wrong_ranks
    return Checked("I16 I17", "students with a place, and ranks shown after the drain", facts, broken)


class _Place:
    """Where a student stands by their best scored attempt."""

    def __init__(self, exam: Exam, session: Session, result: Result) -> None:
        self.student, self.session, self.score = session.student, session.id, result.score
        self.tie = tie_break(exam, session)
        self.key = order_key(exam, result.score, self.tie)


def _best(exam: Exam, stores: Stores) -> dict[str, _Place]:
    sessions = [(stores.sessions.get(result.session), result) for result in stores.results if result.exam == exam.id]
    best: dict[str, _Place] = {}
    for session, result in sessions:
        if session is None or result.status != "SCORED":
            continue
        place = _Place(exam, session, result)
        known = best.get(session.student)
        if known is None or (place.key, known.session) > (known.key, place.session):
            best[session.student] = place
    return best


def _placed(best: Mapping[str, _Place], exam: Exam, stores: Stores) -> Mapping[str | None, Mapping[str, int]]:
    """Return what each board of an exam should order its students by, those that were read and should be empty included."""
    placed: dict[str | None, dict[str, int]] = {None: {}, **{cohort: {} for one, cohort in stores.boards if one == exam.id}}
    shown = {student: place.key for student, place in best.items()}
    for standing in stores.standings:  # a frozen board shows what it was
        if standing.exam == exam.id and standing.held:
            shown.pop(standing.student, None)
            if standing.held_key is not None:
                shown[standing.student] = standing.held_key
    for student, key in shown.items():
        for cohort in (None, *stores.cohorts_of.get((exam.id, student), ())):
            placed.setdefault(cohort, {})[student] = key
    return placed


def _misplaced(right: _Place | None, standing: Standing | None) -> str | None:
    if right is None:
        placed = standing is not None and standing.order_key is not None
        return "stands on the board without a scored result" if placed else None
    if standing is None:
        return f"has a result of {right.score} and no standing"
    if (standing.score, standing.order_key) != (right.score, right.key):
        return f"stands with score {standing.score}, order key {standing.order_key}; right are {right.score}, {right.key}"
    if standing.session != right.session:
        return f"stands with session {standing.session}, the best is {right.session}"
    return None


def _misgrouped(right: frozenset[str], standing: Standing | None) -> str | None:
    if standing is None or frozenset(standing.cohorts) == right:
        return None
    return f"stands in the cohorts {sorted(standing.cohorts)}; those of the sessions are {sorted(right)}"


def _wrongly_held(exam: Exam, standing: Standing | None) -> str | None:
    if standing is None or not standing.held or exam.frozen or standing.held_key == standing.order_key:
        return None
    return "is held back, and the board is not frozen"


def _unlike(right: Mapping[str, int], cohort: str | None, exam: Exam, stores: Stores) -> Iterator[str]:
    """Say how a board in Redis differs from what it should be; one without places need not be there."""
    board = stores.boards.get((exam.id, cohort), Board(complete=False, places={}))
    if not right and not board.places:
        return
    name = "the board" if cohort is None else f"the board of {cohort}"
    if not board.complete:
        yield f"{name} is not complete: run 'finalbell leaderboard rebuild {exam.id}'."
    counts = Counter(_band(board, key) for key in right.values())
    miscounted = sorted(band for band in counts.keys() | board.counts.keys() if counts[band] != board.counts.get(band, 0))
    if miscounted:
        first = miscounted[0]
        example = f"{board.counts.get(first, 0)} from {first:.0f} on, not {counts[first]}"
        counted = sum(board.counts.values())
        yield f"{name} counts {counted} students of {len(right)}, and wrongly in {len(miscounted)} bands ({example})."
    if board.best_only:
        right = dict(sorted(right.items(), key=lambda place: (place[1], place[0]), reverse=True)[: len(board.places)])
    differ = sorted(s for s in right.keys() | board.places.keys() if right.get(s) != board.places.get(s))
    if differ:
        student = differ[0]
        example = f"{student}: {board.places.get(student)}, not {right.get(student)}"
        yield f"{name} differs for {len(differ)} of {len(right)} students ({example})."


def _band(board: Board, key: int) -> float:
    """Return the band that a board counts an order key in: its lowest key."""
    return key // board.width * board.width if board.width else (board.bounds or [-inf])[bisect_right(board.bounds, key) - 1]


def _shown_ranks(exam: Exam, keys: Mapping[str, int], evidence: Evidence) -> tuple[int, Sequence[Violation]]:
    """Compare the ranks that were shown after the drain: before it they were of another moment."""
    drained, right = evidence.history.drained_ms, ranks(keys)
    facts, broken = 0, []
    for call in evidence.history.calls if drained is not None else ():
        if call.exam != exam.id or call.claims or not call.good or drained is None or call.sent_ms < drained:
            continue
        if call.rpc == "GetResult" and call.reply.rank is not None:
            facts += 1
            if right.get(call.student) != call.reply.rank:
                what = f"{call.student} was told rank {call.reply.rank}, not {right.get(call.student)} (line {call.line})."
                broken.append(Violation("I17", exam.id, what))
        if call.rpc == "GetLeaderboard" and call.reply.entries is not None and not call.reply.rebuilding:
            facts += len(call.reply.entries)
            shown = [(entry[0], entry[2]) for entry in call.reply.entries]
            ordered = sorted(keys, key=lambda student: (keys[student], student), reverse=True)[: len(shown)]
            if shown != [(right[student], student) for student in ordered]:
                broken.append(Violation("I17", exam.id, f"its board was shown in another order (line {call.line})."))
    return facts, broken
