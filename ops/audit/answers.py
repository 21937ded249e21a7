"""I1–I9: what was saved counts, once and in order, until time is over; and what a lost Redis may cost."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise

from ops.audit.kept import Result, Session, Stores
from ops.audit.losses import Losses
from ops.audit.records import EPOCH, Call, Checked, Evidence, Save, Violation
from ops.audit.rules import as_ms, deadline_ms, unfrozen

REMEMBERED = 64
"""How many replaced saves of a session the server knows by their key."""


def saves_are_scored(evidence: Evidence) -> Checked:
    """I1, I2, I8, I9, I25: the scored answer of each question is that of the newest acknowledged save.

    What a client never heard of may have won where it is not certainly older; what a wipe may have taken may be missing;
    nothing else counts, a refused save least of all.
    """
    facts, broken = 0, []
    for session, saves in evidence.history.saves.items():
        result = evidence.stores.result_of.get(session)
        if result is None or (answers := unfrozen(result.answers)) is None:
            continue
        losses = Losses(session, evidence)
        by_question = _by_question(saves)
        facts += sum(any(save.acknowledged for save in same) for same in by_question.values())
        for question in by_question.keys() | answers.keys():
            found = _misjudged(result, question, answers.get(question), by_question.get(question, ()), losses)
            broken += [found] if found else []
    return Checked("I1 I2 I8 I9 I25", "questions with an acknowledged save in a scored session", facts, broken)


def _misjudged(result: Result, question: str, scored: str | None, saves: Sequence[Save], losses: Losses) -> Violation | None:
    """Return what is wrong with one question's scored answer; None: it may be what it is."""
    acknowledged = sorted((save for save in saves if save.acknowledged), key=lambda save: save.versions[-1])
    certain = [save for save in acknowledged if not losses.allowed(save)]
    floor = certain[-1] if certain else None
    may = {_value(save.answer) for save in acknowledged if floor is None or save.versions[-1] >= floor.versions[-1]}
    may |= {_value(save.answer) for save in saves if save.perhaps and not _older(save, floor)}
    if floor is None:
        may.add(None)
    if scored in may:
        return None
    sender = next((save for save in acknowledged if _value(save.answer) == scored), None)
    if floor is not None and (scored is None or sender is not None):
        was = "as blank" if sender is None else f"as its version {sender.versions[-1]}"
        call = floor.acknowledged[-1]
        what = f"question {question} was scored {was}, but version {floor.versions[-1]} was acknowledged (line {call.line})"
        return Violation(losses.number(floor), result.session, f"{what}{losses.history_of(floor)}.")
    refused = next((save for save in saves if _value(save.answer) == scored and all(call.refused for call in save.calls)), None)
    if refused is not None:
        call = refused.calls[-1]
        what = f"question {question} was scored as a save that was refused with {call.reason or call.code} (line {call.line})."
        return Violation("I25", result.session, what)
    return Violation("I2", result.session, f"question {question} was scored as no save that may count had sent it.")


def _older(save: Save, floor: Save | None) -> bool:
    """Whether a save that nobody heard of cannot have won against an acknowledged one."""
    if floor is None or save is floor:
        return False
    return save.client_seq is not None and floor.client_seq is not None and save.client_seq < floor.client_seq


def versions_rise_by_one(evidence: Evidence) -> Checked:
    """I3: no two saves share a version, a replay has the first one's, later saves have higher ones, and none is skipped
    but by saves that nobody heard of."""
    facts, broken = 0, []
    for session, saves in evidence.history.saves.items():
        heard = [save for save in saves if save.acknowledged]
        facts += sum(len(save.acknowledged) for save in heard)
        problems = (*_shared(heard), *_replayed_differently(heard), *_out_of_order(heard), *_skipped(saves))
        broken += [Violation("I3", session, problem) for problem in problems]
    return Checked("I3", "acknowledged saves", facts, broken)


def _shared(saves: Sequence[Save]) -> Iterator[str]:
    owner: dict[int, Save] = {}
    for save in saves:
        for version in save.versions:
            if owner.setdefault(version, save) is not save:
                lines = f"lines {owner[version].acknowledged[0].line} and {save.acknowledged[0].line}"
                yield f"version {version} was given to two saves ({lines})."


def _replayed_differently(saves: Sequence[Save]) -> Iterator[str]:
    """Find replays with another version in the same epoch; only after 64 other saves may a key be forgotten."""
    for save in saves:
        for before, after in pairwise(save.versions):
            if before // EPOCH == after // EPOCH and after - before <= REMEMBERED:
                yield f"one save of {save.question} was given versions {before} and {after} (line {save.acknowledged[-1].line})."
        moments = {(call.reply.version, call.reply.saved_at_ms) for call in save.acknowledged}
        if len(moments) > len(save.versions):
            yield f"a replayed save of {save.question} was given another time than at first (line {save.acknowledged[-1].line})."


def _out_of_order(saves: Sequence[Save]) -> Iterator[str]:
    """Find saves that were sent after another one's acknowledgement and got a lower version."""
    answered = sorted((call.received_ms or 0.0, call.reply.version or 0) for save in saves for call in save.acknowledged)
    highest, place = 0, 0
    for save in sorted(saves, key=lambda save: save.sent_ms):
        while place < len(answered) and answered[place][0] < save.sent_ms:
            highest, place = max(highest, answered[place][1]), place + 1
        if save.versions[0] <= highest:
            yield f"a save was given version {save.versions[0]} after {highest} had been given (line {save.acknowledged[0].line})."


def _skipped(saves: Sequence[Save]) -> Iterator[str]:
    epochs: dict[int, set[int]] = {}
    for save in saves:
        for version in save.versions:
            epochs.setdefault(version // EPOCH, set()).add(version % EPOCH)
    for epoch, given in epochs.items():
        unheard = sum(save.perhaps and all(version // EPOCH != epoch for version in save.versions) for save in saves)
        missing = max(given) - len(given)
        if missing > unheard:
            yield f"in epoch {epoch} {missing} versions up to {max(given)} are nobody's, and only {unheard} calls went unheard."


def time_decides(evidence: Evidence) -> Checked:
    """I4: what was accepted came before the end, what was refused as late came after it, and the end is the sum's."""
    facts, broken = 0, []
    for call in evidence.history.calls:
        reply, late = call.reply, None
        if call.good and call.rpc == "SaveAnswer" and reply.saved and reply.saved_at_ms is not None:
            late = _after(reply.saved_at_ms, reply.ends_at_ms, "a save was accepted")
        elif call.reason == "SESSION_ENDED" and reply.server_time_ms is not None and reply.ends_at_ms is not None:
            early = reply.server_time_ms <= reply.ends_at_ms
            late = f"a call was refused as late {reply.ends_at_ms - reply.server_time_ms} ms before the end" if early else None
        else:
            continue
        facts += 1
        broken += [Violation("I4", call.session, f"{late} (line {call.line}).")] if late else []
    for session in evidence.stores.sessions.values():
        facts += 1
        broken += [Violation("I4", session.id, problem) for problem in _wrong_times(session, evidence.stores)]
    return Checked("I4", "saves and refusals with a time, and sessions with an end", facts, broken)


def _after(at_ms: int, ends_ms: int | None, what: str) -> str | None:
    return f"{what} {at_ms - ends_ms} ms after the end" if ends_ms is not None and at_ms > ends_ms else None


def _wrong_times(session: Session, stores: Stores) -> Iterator[str]:
    right, ends_ms = deadline_ms(stores.exams[session.exam], session), as_ms(session.ends_at)
    over = session.submitted_at or session.ends_at  # terms that changed later are not this session's any more
    theirs = session.settled and (session.terms_changed_at is None or session.terms_changed_at < over)
    if theirs and ends_ms != right:
        yield f"it ends at {session.ends_at}, but the terms of its deadline make {datetime.fromtimestamp(right / 1000, UTC)}."
    if session.submitted_at is not None and as_ms(session.submitted_at) > ends_ms:
        yield f"it was handed in at {session.submitted_at}, after its end at {session.ends_at}."
    if session.reason == "BELL" and (session.submitted_at is None or as_ms(session.submitted_at) != ends_ms):
        yield f"the bell handed it in as of {session.submitted_at}, and not as of its end at {session.ends_at}."


def nothing_after_the_submit(evidence: Evidence) -> Checked:
    """I6: once a session is handed in no save is accepted, and Redis does not run it again."""
    facts, broken = 0, []
    for session in evidence.stores.sessions.values():
        calls = evidence.history.by_session.get(session.id, ())
        over = session.submitted_at is not None
        facts += over
        if over and evidence.stores.live.get(session.id) == "IN_PROGRESS":
            broken.append(Violation("I6", session.id, f"it is {session.status} in PostgreSQL and running in Redis."))
        told = min((call.received_ms or 0.0 for call in calls if _says_over(call)), default=None)
        for save in evidence.history.saves.get(session.id, ()):
            first = min(save.acknowledged, key=lambda call: call.reply.version or 0, default=None)
            if first is None:
                continue
            late = session.submitted_at is not None and (first.reply.saved_at_ms or 0) > as_ms(session.submitted_at)
            if late or (told is not None and save.sent_ms > told):
                broken.append(Violation("I6", session.id, f"a save was accepted after the submit (line {first.line})."))
    return Checked("I6", "sessions that are handed in", facts, broken)


def _says_over(call: Call) -> bool:
    """Whether a reply says that the session is handed in."""
    if call.claims:
        return False
    if call.rpc == "SubmitSession" or call.rpc == "GetResult":
        return call.good
    return call.reason == "SESSION_SUBMITTED" or (call.rpc == "GetSession" and call.reply.status in ("SUBMITTED", "SCORED"))


def resuming_shows_everything(evidence: Evidence) -> Checked:
    """I7, I8: a session that is read again has every acknowledged answer, the same order, start and end; and where a wipe
    took answers, the epoch has changed and the reply says through which version they are there."""
    facts, broken = 0, []
    moved = {s.id for s in evidence.stores.sessions.values() if _time_was_given(s)}
    for session, calls in evidence.history.by_session.items():
        views = [call for call in calls if call.rpc in ("GetSession", "StartSession") and call.good and not call.claims]
        facts += len(views)
        for name in ("order", "started_at_ms", "ends_at_ms"):
            shown = {getattr(view.reply, name) for view in views} - {None}
            if len(shown) > 1 and not (name == "ends_at_ms" and session in moved):
                broken.append(Violation("I7", session, f"its {name} was shown as {_listed(shown)}."))
        known = evidence.stores.sessions.get(session)
        if (
            known is not None
            and session not in moved
            and any(v.reply.ends_at_ms not in (None, as_ms(known.ends_at)) for v in views)
        ):
            broken.append(Violation("I7", session, f"its end was shown as another than {as_ms(known.ends_at)}."))
        losses, heard = Losses(session, evidence), [save for save in evidence.history.saves.get(session, ()) if save.acknowledged]
        for view in views:
            broken += [Violation(number, session, what) for number, what in _forgotten(view, heard, losses)]
        broken += [Violation("I3", session, what) for what in _going_back(views)]
    return Checked("I7 I8", "sessions read by their students", facts, broken)


def _time_was_given(session: Session) -> bool:
    """Whether its end may have been shown as another before: a pause, time from staff, or terms that changed meanwhile."""
    changed = session.terms_changed_at is not None and session.terms_changed_at > session.started_at
    return bool(session.pauses or session.adjusted_seconds or changed)


def _forgotten(view: Call, saves: Sequence[Save], losses: Losses) -> Iterator[tuple[str, str]]:
    """Find acknowledged answers that a view does not have, though no wipe can have taken them."""
    if view.reply.answers is None or view.reply.status in ("SUBMITTED", "SCORED"):
        return  # frozen answers come back without versions; what was scored is compared elsewhere
    for save in saves:
        before = [call for call in save.acknowledged if call.received_ms is not None and call.received_ms < view.sent_ms]
        if not before:
            continue
        version = max(call.reply.version or 0 for call in before)
        shown = view.reply.answers.get(save.question)
        if shown is not None and int(str(shown[1])) >= version:
            continue
        of_its_epoch = [told for _, told in view.reply.answers.values() if int(str(told)) // EPOCH == version // EPOCH]
        later = any(int(str(told)) > version for told in of_its_epoch)  # what was lost of an epoch is its end
        if later or not losses.allowed(save, version) or (view.reply.epoch or 0) == version // EPOCH:
            what = (
                f"version {version} of {save.question} (line {before[0].line}) is missing in the session read at line {view.line}"
            )
            yield ("I7" if not losses.wiped(save) else "I8"), f"{what}{losses.history_of(save)}."


def _going_back(views: Sequence[Call]) -> Iterator[str]:
    """Find views that were sent after another's answer and show a lower epoch."""
    for earlier, later in pairwise(views):
        before, after = earlier.reply.epoch, later.reply.epoch
        if before is not None and after is not None and after < before and (earlier.received_ms or 0.0) < later.sent_ms:
            yield f"its epoch went from {before} back to {after} (line {later.line})."


def _listed(values: set[object]) -> str:
    return " and ".join(sorted(map(str, values)))


def _by_question(saves: Sequence[Save]) -> Mapping[str, Sequence[Save]]:
    found: dict[str, list[Save]] = {}
    for save in saves:
        found.setdefault(save.question, []).append(save)
    return found


def _value(answer: str) -> str | None:
    return None if answer.startswith("-") else answer
