"""I22–I24, I28: who was shown what, and how calls were refused."""

from collections.abc import Iterator, Sequence

from ops.audit.kept import Exam
from ops.audit.records import Call, Checked, Evidence, Violation

NOT_FOUND = ("NOT_FOUND", "SESSION_NOT_FOUND")
NOBODY = frozenset({"no token", "bad token"})
OWNERS_ONLY = frozenset(
    {
        "GetSession",
        "SaveAnswer",
        "BatchSaveAnswers",
        "SubmitSession",
        "PauseSession",
        "ResumeSession",
        "ExplainDeadline",
        "GetResult",
    }
)
"""The calls on one session that are its student's; the others are staff's."""

NOT_LOOKED_AT = frozenset({"OVERLOADED", "RATE_LIMITED"})
"""Refusals of any call, whomever it concerns: nobody has looked which session it is about."""

ENVOYS_OWN = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN", ""})


def keys_stay_inside(evidence: Evidence) -> Checked:
    """I22: no reply held a key, an explanation or an outcome before its release, and no key for everybody in Redis does."""
    facts, broken = 0, []
    for call in evidence.history.calls:
        exam = evidence.stores.exams.get(call.exam)
        facts += call.canaries is not None
        if call.canaries and not (exam and _may_show_keys(call, exam)):
            what = f"the reply to {call.rpc} held {len(call.canaries)} texts of keys or explanations (line {call.line})."
            broken.append(Violation("I22", call.session or call.exam, what))
        if exam is None or not call.good:
            continue
        if call.reply.breakdown and not _may_show_keys(call, exam):
            broken.append(Violation("I22", call.session, f"outcomes were shown before their release (line {call.line})."))
        if call.reply.score is not None and exam.release_score == "MANUAL" and not exam.released:
            broken.append(Violation("I22", call.session, f"a score was shown before its release (line {call.line})."))
    for exam_id, values in evidence.stores.open_keys.items():
        facts += len(values)
        if any(secret in value for secret in evidence.stores.secrets.get(exam_id, ()) for value in values):
            broken.append(Violation("I22", exam_id, "Redis holds an explanation or an accepted text where everybody's papers are."))
    return Checked("I22", "replies searched for keys, and Redis's open values", facts, broken)


def _may_show_keys(call: Call, exam: Exam) -> bool:
    """Whether the review is released for a result's reader; AFTER_CLOSE needs the exam to be over by now at least."""
    if call.rpc != "GetResult":
        return False
    return exam.release_review == "IMMEDIATELY" or (
        exam.release_review == "AFTER_CLOSE" and (exam.closed or exam.closes_at is not None)
    )


def nobody_elses(evidence: Evidence) -> Checked:
    """I23, I24: a session answers its own student only; to all others it does not exist, in the words for unknown ones;
    and no header makes a caller somebody else."""
    facts, broken, words = 0, [], set[str]()
    for call in evidence.history.calls:
        if not call.session or call.perhaps or call.rpc not in OWNERS_ONLY or call.reason in NOT_LOOKED_AT:
            continue
        owner = evidence.stores.sessions.get(call.session)
        if owner is not None and owner.student == call.student and not call.claims:
            continue
        facts += 1
        number = "I24" if call.claims else "I23"
        if call.claims in NOBODY:
            wrong = call.code != "UNAUTHENTICATED"
        else:
            wrong = (call.code, call.reason) != NOT_FOUND
            words |= {call.message} - {""}
        if wrong:
            what = f"{call.rpc} by {call.student or 'nobody'} was answered {call.code} {call.reason}".rstrip()
            broken.append(Violation(number, call.session, f"{what} (line {call.line})."))
    if len(words) > 1:
        broken.append(Violation("I23", "all", f"foreign and unknown sessions are told apart: {len(words)} texts of refusal."))
    return Checked("I23 I24", "answered calls on sessions of others, and with forged identities", facts, broken)


def refusals_help(evidence: Evidence) -> Checked:
    """I28: a refusal has a reason, says when to come back where that helps, and is never a fault of our own."""
    facts, broken = 0, []
    for call in evidence.history.calls:
        if call.good or not call.code:
            continue
        facts += 1
        broken += [
            Violation("I28", call.session or call.exam, f"{call.rpc} {what} (line {call.line}).") for what in _unhelpful(call)
        ]
    broken += list(_overloaded_but_done(evidence))
    return Checked("I28", "refused calls", facts, broken)


def _unhelpful(call: Call) -> Iterator[str]:
    if call.code in ("INTERNAL", "DATA_LOSS", "UNIMPLEMENTED"):
        yield f"failed with {call.code}: {call.message[:80]}"
    elif not call.reason and call.code not in ENVOYS_OWN and call.code != "UNAUTHENTICATED":
        yield f"was refused with {call.code} and no reason"
    elif call.reason in ("OVERLOADED", "STORE_UNAVAILABLE", "RATE_LIMITED") and call.retry_ms <= 0:
        yield f"was refused with {call.reason} and not told when to come back"


def _overloaded_but_done(evidence: Evidence) -> Iterator[Violation]:
    """Find saves that were refused as OVERLOADED only, and are shown all the same."""
    for session, saves in evidence.history.saves.items():
        turned_away = [save for save in saves if all(call.reason == "OVERLOADED" for call in save.calls)]
        shown: Sequence[Call] = [c for c in evidence.history.by_session[session] if c.rpc == "GetSession" and c.reply.answers]
        for save in turned_away:
            others = {save.answer for save in saves if save not in turned_away}
            for call in shown:
                found = (call.reply.answers or {}).get(save.question)
                if found is not None and found[0] == save.answer and save.answer not in others:
                    yield Violation(
                        "I28", session, f"a save refused as OVERLOADED was done (lines {save.calls[0].line}, {call.line})."
                    )
