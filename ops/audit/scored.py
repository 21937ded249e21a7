"""I6 and I10–I17: each submit has one result, which anybody can recompute; and the boards say what the results say."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import pairwise

from ops.audit.records import Call, Checked, Evidence, Exam, Result, Session, Standing, Stores, Violation
from ops.audit.rules import as_ms, canonical, order_key, ranks, sha256, tie_break, worth

BELL = timedelta(seconds=7)
"""The bell's grace of 2 s, and the 5 s within which it rings."""

HOLD = timedelta(seconds=120)
FORWARD = {"IN_PROGRESS": 0, "PAUSED": 0, "SUBMITTED": 1, "SCORED": 2}
RESULT_FORWARD = {"SCORING": 0, "PARTIAL": 1, "SCORED": 2}


def frozen_answers(result: Result) -> Mapping[str, str] | None:
    """Return the answers that were scored; None when the text is no object of texts."""
    try:
        found = json.loads(result.answers)
    except ValueError:
        return None
    return found if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()) else None


def hashes_agree(evidence: Evidence) -> Checked:
    """I6: what is scored is byte for byte what was frozen: its text is canonical, and every hash of it is the same."""
    broken = []
    for result in evidence.stores.results:
        about, answers, right = result.session, frozen_answers(result), sha256(result.answers)
        session = evidence.stores.sessions.get(result.session)
        if answers is None or canonical(answers) != result.answers:
            broken.append(Violation("I6", about, "the answers that were scored are not in their canonical encoding."))
        if result.answers_sha256 != right:
            broken.append(Violation("I6", about, "the hash of its result is not that of the answers that were scored."))
        if session is not None and session.answers_sha256 not in (None, right):
            broken.append(
                Violation("I6", about, "the hash that was noted at its submit is not that of the answers that were scored.")
            )
        told = [call for call in evidence.history.by_session.get(result.session, ()) if call.good and not call.claims]
        other = [call.line for call in told if call.reply.answers_sha256 not in (None, "", right)]
        if other:
            broken.append(Violation("I6", about, f"its student was told another hash than its result's (line {other[0]})."))
    return Checked("I6", "results", len(evidence.stores.results), broken)


def one_result_each(evidence: Evidence) -> Checked:
    """I10, I11: each session that is handed in has exactly one result, and every answered submit is among them."""
    stores, broken = evidence.stores, []
    count: dict[str, int] = {}
    for result in stores.results:
        count[result.session] = count.get(result.session, 0) + 1
        broken += [Violation("I10", result.session, what) for what in _not_its_own(result, stores.sessions.get(result.session))]
    for session in stores.sessions.values():
        results = count.get(session.id, 0)
        if results > 1:
            broken.append(Violation("I10", session.id, f"it has {results} results."))
        if results == 0 and session.status != "IN_PROGRESS":
            broken.append(Violation("I10", session.id, f"it is {session.status} and has no result{_where(session.id, stores)}."))
    told = {
        session: call
        for session, calls in evidence.history.by_session.items()
        for call in calls
        if call.rpc == "SubmitSession" and call.good and not call.claims
    }
    for session_id, call in told.items():
        if session_id not in count:
            what = f"its submit was answered (line {call.line}), and there is no result{_where(session_id, stores)}."
            broken.append(Violation("I11", session_id, what))
    submitted = sum(session.status != "IN_PROGRESS" for session in stores.sessions.values())
    return Checked("I10 I11", "sessions that are handed in, and answered submits", submitted + len(told), broken)


def _not_its_own(result: Result, session: Session | None) -> Iterator[str]:
    if session is None:
        yield "it has a result, and there is no such session."
        return
    if (result.exam, result.exam_version, result.student) != (session.exam, session.exam_version, session.student):
        yield "its result is of another exam, version or student."
    if session.status != "SCORED":
        yield f"it has a result and is still {session.status}."


def _where(session: str, stores: Stores) -> str:
    if session in stores.buried:
        return "; it waits for an operator (dead_letter)"
    return "; its submit waits in PostgreSQL" if session in stores.waiting else ""


def results_only_grow(evidence: Evidence) -> Checked:
    """I11: once SCORED stays so, and a score changes only with a revision on record."""
    facts, broken = 0, []
    for session, calls in evidence.history.by_session.items():
        shown = [call for call in calls if call.rpc == "GetResult" and call.good and not call.claims]
        facts += len(shown)
        for earlier, later in pairwise(shown):
            if (earlier.received_ms or 0.0) < later.sent_ms and _fell(earlier, later):
                what = f"its result went from {earlier.reply.status} back to {later.reply.status} (line {later.line})."
                broken.append(Violation("I11", session, what))
    for result in evidence.stores.results:
        facts += 1
        replaced = evidence.stores.replaced.get(result.session, ())
        if [revision for revision, _ in replaced] != list(range(1, result.revision)):
            what = f"it is at revision {result.revision}, and {len(replaced)} earlier ones are on record."
            broken.append(Violation("I11", result.session, what))
        scores = {**dict(replaced), result.revision: result.score}
        for call in evidence.history.by_session.get(result.session, ()):
            score = call.reply.score
            if score is None or not call.good or call.claims:
                continue
            known = scores.values() if call.reply.revision is None else [scores.get(call.reply.revision)]
            if score not in known:
                what = f"its student was told a score of {score} (line {call.line}), which is in no revision on record."
                broken.append(Violation("I11", result.session, what))
    return Checked("I11", "results in PostgreSQL and as they were shown", facts, broken)


def _fell(earlier: Call, later: Call) -> bool:
    before, after = RESULT_FORWARD.get(earlier.reply.status or ""), RESULT_FORWARD.get(later.reply.status or "")
    lower = before is not None and after is not None and after < before
    return lower or (earlier.reply.revision or 0) > (later.reply.revision or earlier.reply.revision or 0)


def scores_recomputed(evidence: Evidence) -> Checked:
    """I12, I15: each score is what the frozen answers are worth under the keys that the result names, all of them there."""
    broken = []
    for result in evidence.stores.results:
        keys = evidence.stores.keys.get((result.exam, result.exam_version, result.key_version))
        answers = frozen_answers(result)
        if keys is None or not keys.questions or any(q.answer is None for q in keys.questions):
            broken.append(Violation("I15", result.session, f"its key version {result.key_version} is not there as a whole."))
            continue
        if answers is None:
            continue  # the hashes' check says so
        right = worth(answers, keys)
        graded = sum(result.points[place] for place in right.pending if place < len(result.points))
        points = [result.points[p] if p in right.pending and p < len(result.points) else n for p, n in enumerate(right.points)]
        if list(result.points) != points or result.score != right.score + graded:
            what = f"its score is {result.score}, and its answers are worth {right.score + graded}"
            wrong = [q.id for q, was, n in zip(keys.questions, result.points, points, strict=False) if was != n]
            broken.append(Violation("I12", result.session, f"{what} (questions {', '.join(wrong) or 'none'})."))
        if result.max_score != right.max_score:
            broken.append(Violation("I12", result.session, f"its maximum is {result.max_score}, not {right.max_score}."))
        if result.revision == 1 and (result.status == "PARTIAL") != bool(right.pending):
            broken.append(Violation("I12", result.session, f"it is {result.status} with {len(right.pending)} essays to grade."))
    return Checked("I12 I15", "results", len(evidence.stores.results), broken)


def one_submit_for_all(evidence: Evidence) -> Checked:
    """I13: every submit of a session is told the same moment and hash, those on record, and its status only advances."""
    facts, broken = 0, []
    for session, calls in evidence.history.by_session.items():
        honest = [call for call in calls if call.good and not call.claims]
        submits = [call for call in honest if call.rpc == "SubmitSession"]
        facts += len(submits)
        moments = {call.reply.submitted_at_ms for call in honest if call.reply.submitted_at_ms is not None}
        hashes = {call.reply.answers_sha256 for call in submits}
        row = evidence.stores.sessions.get(session)
        if row is not None and row.submitted_at is not None and moments:
            moments.add(as_ms(row.submitted_at))
        if len(moments) > 1:
            told = " and ".join(str(moment) for moment in sorted(moments))
            broken.append(Violation("I13", session, f"it was handed in at {told}."))
        if len(hashes) > 1:
            lines = ", ".join(str(call.line) for call in submits[:5])
            broken.append(Violation("I13", session, f"its submits were told {len(hashes)} hashes (lines {lines})."))
        if submits and row is not None and row.status == "IN_PROGRESS":
            broken.append(
                Violation("I13", session, f"its submit was answered (line {submits[0].line}), and it is still in progress.")
            )
        views = [call for call in honest if call.rpc in ("GetSession", "StartSession") and call.reply.status is not None]
        for earlier, later in pairwise(views):
            before, after = FORWARD.get(earlier.reply.status or "", 0), FORWARD.get(later.reply.status or "", 0)
            if (earlier.received_ms or 0.0) < later.sent_ms and after < before:
                what = f"it went from {earlier.reply.status} back to {later.reply.status} (line {later.line})."
                broken.append(Violation("I13", session, what))
    for one in evidence.stores.sessions.values():
        facts += 1
        if one.status != "IN_PROGRESS" and (one.submitted_at is None or one.reason is None or one.answers_sha256 is None):
            broken.append(Violation("I13", one.id, f"it is {one.status} without the moment, reason or hash of its submit."))
        if one.status == "IN_PROGRESS" and one.submitted_at is not None:
            broken.append(Violation("I13", one.id, "it is in progress and has a moment of its submit."))
    return Checked("I13", "answered submits, and sessions", facts, broken)


def bell_rings(evidence: Evidence) -> Checked:
    """I14: no session is past its end, the bell's grace and a hold, and not handed in."""
    stores, broken = evidence.stores, []
    limit = stores.now - BELL - (HOLD if stores.holding else timedelta(0))
    over = [session for session in stores.sessions.values() if session.ends_at < limit]
    for session in over:
        if session.status == "IN_PROGRESS":
            late = (stores.now - session.ends_at).total_seconds()
            broken.append(Violation("I14", session.id, f"it ended {late:.0f} s ago, and nobody has handed it in."))
    return Checked("I14", "sessions past their end", len(over), broken)


def boards_say_what_results_say(evidence: Evidence) -> Checked:
    """I16, I17: standings are the best scored results by the published rule, and each board in Redis is exactly those."""
    stores, broken, facts = evidence.stores, [], 0
    for exam in stores.exams.values():
        best = _best(exam, stores)
        standings = {standing.student: standing for standing in stores.standings if standing.exam == exam.id}
        facts += len(best)
        for student in best.keys() | standings.keys():
            wrong = _misplaced(best.get(student), standings.get(student))
            broken += [Violation("I17", exam.id, f"student {student}: {wrong}.")] if wrong else []
        cohorts = {cohort for standing in standings.values() for cohort in standing.cohorts}
        for cohort in (None, *sorted(cohorts)):
            placed = {s.student: s.key for s in best.values() if cohort is None or cohort in s.cohorts}
            broken += [Violation("I16", exam.id, what) for what in _unlike(placed, cohort, exam, stores)]
        facts_seen, wrong_ranks = _shown_ranks(exam, {s.student: s.key for s in best.values()}, evidence)
        facts += facts_seen
        broken += wrong_ranks
    return Checked("I16 I17", "students with a place, and ranks shown after the drain", facts, broken)


class _Place:
    """Where a student stands by their best scored attempt."""

    def __init__(self, exam: Exam, session: Session, result: Result, cohorts: frozenset[str]) -> None:
        self.student, self.session, self.score, self.cohorts = session.student, session.id, result.score, cohorts
        self.tie = tie_break(exam, session)
        self.key = order_key(exam, result.score, self.tie)


def _best(exam: Exam, stores: Stores) -> dict[str, _Place]:
    sessions = [(stores.sessions.get(result.session), result) for result in stores.results if result.exam == exam.id]
    cohorts: dict[str, frozenset[str]] = {}
    for session, _ in sessions:
        if session is not None:
            cohorts[session.student] = cohorts.get(session.student, frozenset()) | frozenset(session.cohorts)
    best: dict[str, _Place] = {}
    for session, result in sessions:
        if session is None or result.status != "SCORED":
            continue
        place = _Place(exam, session, result, cohorts[session.student])
        known = best.get(session.student)
        if known is None or (place.key, known.session) > (known.key, place.session):
            best[session.student] = place
    return best


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


def _unlike(right: Mapping[str, int], cohort: str | None, exam: Exam, stores: Stores) -> Iterator[str]:
    """Say how a board in Redis differs from what it should be; one without places need not be there."""
    board = stores.boards.get((exam.id, cohort))
    if board is None or (not right and not board.places):
        return
    name = "the board" if cohort is None else f"the board of {cohort}"
    if not board.complete:
        yield f"{name} is not complete: run 'finalbell leaderboard rebuild {exam.id}'."
    differ = sorted(s for s in right.keys() | board.places.keys() if right.get(s) != board.places.get(s))
    if differ:
        first = differ[0]
        example = f"{first}: {board.places.get(first)}, not {right.get(first)}"
        yield f"{name} differs for {len(differ)} of {len(right)} students ({example})."


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
