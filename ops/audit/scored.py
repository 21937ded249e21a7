"""I6 and I10–I14: each submit has one result, of what was frozen, and nothing that was said of it turns back."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise

from ops.audit.kept import Result, Session, Stores
from ops.audit.records import Call, Checked, Evidence, Violation
from ops.audit.rules import as_ms, is_canonical, sha256, unfrozen

BELL = timedelta(seconds=7)
"""The bell's grace of 2 s, and the 5 s within which it rings."""

HOLD = timedelta(seconds=120)
NOTED = timedelta(seconds=60)
"""Within which PostgreSQL knows at the latest that a session was handed in: by its score, or a second later without it."""

FORWARD = {"IN_PROGRESS": 0, "PAUSED": 0, "SUBMITTED": 1, "SCORED": 2}
RESULT_FORWARD = {"SCORING": 0, "PARTIAL": 1, "SCORED": 2}


def hashes_agree(evidence: Evidence) -> Checked:
    """I6: what is scored is byte for byte what was frozen: its text is canonical, and every hash of it is the same."""
    broken = []
    for result in evidence.stores.results:
        about, answers, right = result.session, unfrozen(result.answers), sha256(result.answers)
        session = evidence.stores.sessions.get(result.session)
        if answers is None or not is_canonical(result.answers, answers):
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
        if results == 0 and (how := _handed_in(session, stores)) is not None:
            broken.append(Violation("I10", session.id, f"it {how} and has no result{_where(session.id, stores)}."))
        if results and session.id in stores.waiting:
            broken.append(Violation("I10", session.id, "it has a result, and its submit still waits in PostgreSQL."))
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


def _handed_in(session: Session, stores: Stores) -> str | None:
    """Say how it is known that a session is handed in, as the middle of a sentence; None: it runs, for all that is known.

    One that runs in PostgreSQL may have been clicked in Redis, or lie among the dead letters; a minute later somebody has lost
    sight of it. Where Redis knows it, a letter says nothing more: anything may come under a running session's name. What the
    bell rang for is past its end, and `bell_rings` sees to it.
    """
    if session.status != "IN_PROGRESS" or session.id in stores.waiting:
        return f"is {session.status}"
    since = stores.clicked.get(session.id) if session.id in stores.live else stores.buried.get(session.id)
    if since is None or since > stores.now - NOTED:
        return None
    return f"was handed in {(stores.now - since).total_seconds():.0f} s ago, is {session.status}"


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
        if [earlier.revision for earlier in replaced] != list(range(1, result.revision)):
            what = f"it is at revision {result.revision}, and {len(replaced)} earlier ones are on record."
            broken.append(Violation("I11", result.session, what))
        if unexplained := [earlier.revision for earlier in replaced if not earlier.reason.strip()]:
            broken.append(Violation("I11", result.session, f"its revisions {unexplained} were replaced without a reason."))
        scores = {**{earlier.revision: earlier.score for earlier in replaced}, result.revision: result.score}
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
