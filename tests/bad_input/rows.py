"""Bad input, a row each: what is sent, and how it is answered (RELIABILITY C).

A `Row` is a call with JSON fields, sent over REST, gRPC-web and gRPC, and straight to the service; what no message can
hold goes over REST alone. `$live` is a session of the world. A row whose code is OK is a repetition or a forgery that must
have no effect.
"""

from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from tests.bad_input.world import SAVED_KEY, SUBMIT_KEY
from tests.flows.transports import TRANSPORTS

NOBODYS = "01999999-0000-7000-8000-000000000000"
LONG = "x" * 10_000


@dataclass(frozen=True, slots=True)
class Row:
    """One call, and its answer over every way in."""

    what: str
    method: str
    fields: Mapping[str, Any]
    code: str = "INVALID_ARGUMENT"
    reason: str = "INVALID_FIELD"
    names: str | None = None
    """The field that the refusal names; None where it names none, or any."""

    who: str = "wally"
    key: str | None = None
    """The idempotency key; None: a fresh one where the method takes one, "" for none."""

    headers: Mapping[str, str] = field(default_factory=dict)
    status: int | None = None
    """REST's status where it is not the code's own."""

    way: str | None = None
    """The only way that it goes, where the first call changes how the second is answered."""


def save(what: str, answer: Mapping[str, Any], names: str | None = None, question: str = "q1", **more: Any) -> Row:
    """A save in a session in progress."""
    return Row(f"save: {what}", "SaveAnswer", {"sessionId": "$live", "questionId": question, **answer}, names=names, **more)


# Everywhere


def role(method: str, who: str, **fields: Any) -> Row:
    return Row(f"{method} as {who}", method, fields, "PERMISSION_DENIED", "ROLE_REQUIRED", who=who)


def forged(what: str, **headers: str) -> list[Row]:
    """A header that claims something: it opens no other's session, and takes nothing from one's own."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return [
        Row(f"{what}, for another's session", "GetSession", {"sessionId": "$theirs"}, *UNKNOWN_SESSION, headers=sent),
        Row(f"{what}, for one's own session", "GetSession", {"sessionId": "$live"}, "OK", "", headers=sent),
    ]


UNKNOWN_SESSION = ("NOT_FOUND", "SESSION_NOT_FOUND")

EVERYWHERE = [
    role("CloseExam", "wally", examId="w-open"),
    role("CloseExam", "proctor", examId="w-open"),
    role("ReleaseExam", "grader", examId="w-held"),
    role("WarmExam", "proctor", examId="w-open"),
    role("RebuildLeaderboard", "proctor", examId="w-strict"),
    role("UpdateSchedule", "proctor", examId="w-open", clearClosesAt=True),
    *(role(f"{name}Leaderboard", "proctor", examId="w-open") for name in ("Freeze", "Reveal", "Release")),
    role("SetExamSeries", "proctor", seriesId="w-series", examIds=["w-open"]),
    role("DeleteExamSeries", "proctor", seriesId="w-series"),
    role("SetLecture", "proctor", lectureId="w-lecture", title="A lecture", durationSeconds=1),
    role("DeleteLecture", "wally", lectureId="sample"),
    role("ListResults", "wally", examId="w-strict"),
    role("ListExamReports", "grader"),
    role("GetExamReport", "wally", examId="w-strict"),
    role("VerifyLeaderboard", "wally", examId="w-strict"),
    role("SetAccommodation", "wally", studentId="wally", factor=2.0),
    role("AdjustDeadline", "wally", sessionId="$live", seconds=3600, reason="mine"),
    role("ListDeadLetters", "wally"),
    role("ComputeItemStatistics", "wally", examId="w-strict"),
    role("GetItemStatistics", "grader", examId="w-strict"),
    role("ReplayDeadLetter", "proctor", letterId="1"),
    role("CreateRehearsal", "proctor", examId="w-open"),
    role("RemoveRehearsal", "proctor", rehearsalId="w-open"),
    role("DiscardDeadLetter", "proctor", letterId="1", reason="gone"),
    role("ListSessions", "wally", studentId="other"),
    *forged("x-student-id", x_student_id="other"),
    *forged("x-user", x_user="other", x_user_id="other"),
    *forged("x-jwt-payload", x_jwt_payload="eyJzdWIiOiJvdGhlciIsInJvbGVzIjpbImFkbWluIl19"),
    *forged("x-role", x_role="admin", x_roles="admin"),
    *forged("x-forwarded-for", x_forwarded_for="127.0.0.1", x_real_ip="127.0.0.1"),
    *forged("x-envoy", x_envoy_internal="true", x_envoy_upstream_rq_timeout_ms="1", x_envoy_retry_on="5xx"),
    *forged("fb-http-status", fb_http_status="500"),
    *forged("method override", x_http_method_override="DELETE"),
    Row(
        "a staff role's header",
        "CloseExam",
        {"examId": "w-open"},
        "PERMISSION_DENIED",
        "ROLE_REQUIRED",
        headers={"x-role": "admin"},
    ),
]

# Students

START = [
    *(
        Row(f"start: {what}", "StartSession", {"examId": exam}, names=None if "/" in exam else "examId")
        for what, exam in {
            "exam id with capitals": "W-Open",
            "exam id with a blank": "w open",
            "exam id of 64 characters": "w" * 64,
            "exam id that begins with a dash": "-open",
            "exam id that is a path": "../w-open",
            "exam id with SQL": "w-open'; DROP TABLE exam; --",
            "exam id with a wildcard": "w-*",
            "exam id with an accent": "w-öpen",
        }.items()
    ),
    Row("start: unknown exam", "StartSession", {"examId": "w-nowhere"}, "NOT_FOUND", "EXAM_NOT_FOUND"),
    Row("start: not open yet", "StartSession", {"examId": "w-later"}, "FAILED_PRECONDITION", "EXAM_NOT_OPEN"),
    Row("start: closed", "StartSession", {"examId": "w-closed"}, "FAILED_PRECONDITION", "EXAM_CLOSED"),
    Row("start: attempts used up", "StartSession", {"examId": "w-strict"}, "FAILED_PRECONDITION", "ATTEMPTS_EXHAUSTED"),
    Row("start: not bought", "StartSession", {"examId": "w-sold"}, "PERMISSION_DENIED", "ENTITLEMENT_REQUIRED"),
    Row("start: not on the roster", "StartSession", {"examId": "w-roster"}, "PERMISSION_DENIED", "NOT_ENROLLED"),
    Row("start: one is live already", "StartSession", {"examId": "w-open"}, "OK", ""),
    Row("start: one is live already, another alias", "StartSession", {"examId": "w-open", "alias": "Somebody"}, "OK", ""),
    Row("start: one is paused", "StartSession", {"examId": "w-paused"}, "OK", ""),
    Row("start: alias of 33 characters", "StartSession", {"examId": "w-open", "alias": "x" * 33}, names="alias"),
    Row("start: alias that nobody sees", "StartSession", {"examId": "w-open", "alias": "\u200b"}, names="alias"),
    *(
        Row(
            f"start: alias with {ord(hidden):04X}, which nobody sees",
            "StartSession",
            {"examId": "w-open", "alias": hidden},
            names="alias",
        )
        for hidden in "\u061c\u3164\u00ad\u2800\u115f\u034f\u180e\ufff9\ufe0f\U000e0041\U000f0000"
    ),
    Row("start: alias of an emoji in its style", "StartSession", {"examId": "w-open", "alias": "\u2764\ufe0f"}, "OK", ""),
    Row("start: alias that turns text round", "StartSession", {"examId": "w-open", "alias": "a\u202eb"}, names="alias"),
    Row("start: alias with NUL", "StartSession", {"examId": "w-open", "alias": "a\0b"}, names="alias"),
    Row("start: short key", "StartSession", {"examId": "w-open"}, key="short"),
    Row(
        "start: key with a blank",
        "StartSession",
        {"examId": "w-open", "idempotencyKey": "with a blank"},
        key="",
        names="idempotencyKey",
    ),
]

ANSWERS = [
    save("no answer set", {}, "answer"),
    save("unknown question", {"choice": "A"}, "questionId", question="q9"),
    save("no question", {"choice": "A"}, "questionId", question=""),
    save("question of 10 KB", {"choice": "A"}, "questionId", question=LONG),
    save("question with a glob", {"choice": "A"}, "questionId", question="q*"),
    save("question with a newline", {"choice": "A"}, "questionId", question="q1\n"),
    save("question of another field", {"choice": "A"}, "questionId", question="k"),
    save("empty choice", {"choice": ""}, "choice"),
    save("choice in small letters", {"choice": "b"}, "choice"),
    save("choice with a blank", {"choice": "B "}, "choice"),
    save("choice that is no option", {"choice": "Z"}, "choice"),
    save("two choices in one", {"choice": "A,B"}, "choice"),
    save("choice of 10 KB", {"choice": LONG}, "choice"),
    save("choices for a single choice", {"choices": {"ids": ["B"]}}, "choices"),
    save("number for a single choice", {"number": "1"}, "number"),
    save("text for a single choice", {"text": "B"}, "text"),
    save("choice for a multiple choice", {"choice": "A"}, "choice", question="q2"),
    save("no choices", {"choices": {"ids": []}}, "choices.ids", question="q2"),
    save("the same choice twice", {"choices": {"ids": ["A", "A"]}}, "choices.ids", question="q2"),
    save("one choice that is no option", {"choices": {"ids": ["A", "Z"]}}, "choices", question="q2"),
    save("65 choices", {"choices": {"ids": [f"o{n}" for n in range(65)]}}, "choices.ids", question="q2"),
    save("an empty choice among them", {"choices": {"ids": ["A", ""]}}, "choices.ids[1]", question="q2"),
    *(
        save(f"number {number!r}", {"number": number}, "number", question="q3")
        for number in ("1,000", "abc", "NaN", "Infinity", "1e400", "3.5 ", "3.5\n", "٣", "0x10", "1_000", "--1", "1.2.3", "1" * 41)
    ),
    save("text for a number", {"text": "3.5"}, "text", question="q3"),
    save("text over 20 KB", {"text": "x" * 20_481}, "text", question="q4"),
    save("text over 20 KB in bytes", {"text": "é" * 10_241}, "text", question="q4"),
    save("text with NUL", {"text": "a\0b"}, "text", question="q4"),
    save("choice for a text", {"choice": "A"}, "choice", question="q4"),
    save("cleared: false", {"cleared": False}, "cleared"),
    save("client sequence 0", {"choice": "A", "clientSeq": 0}, "clientSeq"),
]

SAVE = [
    *ANSWERS,
    *(
        save(f"session id {session!r}"[:60], {"sessionId": session, "choice": "A"}, "sessionId")
        for session in ("1", "not-a-uuid", "0" * 36, "$live ", "{$live}", "s:{00}:x", "*")
    ),
    save("unknown session", {"sessionId": NOBODYS, "choice": "A"}, code="NOT_FOUND", reason="SESSION_NOT_FOUND"),
    save("another's session", {"sessionId": "$theirs", "choice": "A"}, code="NOT_FOUND", reason="SESSION_NOT_FOUND"),
    save(
        "unknown question of another's session",
        {"sessionId": "$theirs", "choice": "A"},
        None,
        "q9",
        code="NOT_FOUND",
        reason="SESSION_NOT_FOUND",
    ),
    save(
        "another's session, by staff",
        {"sessionId": "$live", "choice": "A"},
        code="NOT_FOUND",
        reason="SESSION_NOT_FOUND",
        who="admin",
    ),
    save("no key", {"choice": "A"}, "idempotencyKey", key=""),
    save("key of 7 characters", {"choice": "A"}, "idempotencyKey", key="1234567"),
    save("key of 65 characters", {"choice": "A"}, "idempotencyKey", key="x" * 65),
    save("key with a blank", {"choice": "A"}, "idempotencyKey", key="with a blank"),
    save("key with NUL", {"choice": "A", "idempotencyKey": "nul-\0-nul"}, "idempotencyKey", key=""),
    save("two keys that differ", {"choice": "A", "idempotencyKey": "key-number-1"}, "idempotencyKey", key="key-number-2"),
    save("same key, same answer", {"choice": "B", "clientSeq": 5}, code="OK", reason="", key=SAVED_KEY),
    save(
        "same key, same answer, other clock",
        {"choice": "B", "clientSeq": 5, "clientTs": "0001-01-01T00:00:00Z"},
        code="OK",
        reason="",
        key=SAVED_KEY,
    ),
    save(
        "same key, same answer, far future",
        {"choice": "B", "clientSeq": 5, "clientTs": "9999-12-31T23:59:59Z"},
        code="OK",
        reason="",
        key=SAVED_KEY,
    ),
    save(
        "same key, other answer",
        {"choice": "C", "clientSeq": 5},
        code="ALREADY_EXISTS",
        reason="IDEMPOTENCY_KEY_REUSED",
        key=SAVED_KEY,
    ),
    save(
        "same key, other sequence",
        {"choice": "B", "clientSeq": 6},
        code="ALREADY_EXISTS",
        reason="IDEMPOTENCY_KEY_REUSED",
        key=SAVED_KEY,
    ),
    save(
        "same key, other question",
        {"text": "Ankara"},
        question="q4",
        code="ALREADY_EXISTS",
        reason="IDEMPOTENCY_KEY_REUSED",
        key=SAVED_KEY,
    ),
    save("overtaken", {"choice": "C", "clientSeq": 4}, code="OK", reason=""),
    *(
        row
        for state, reason in {
            "ended-rest": "SESSION_ENDED",
            "waiting": "SESSION_SUBMITTED",
            "strict": "SESSION_SUBMITTED",
            "paused": "SESSION_PAUSED",
        }.items()
        for row in (
            save(
                f"in a session that is {state}",
                {"sessionId": f"${state}", "choice": "A"},
                code="FAILED_PRECONDITION",
                reason=reason,
            ),
            save(
                f"a replay in a session that is {state}",
                {"sessionId": f"${state}", "choice": "B"},
                code="OK",
                reason="",
                key=SAVED_KEY,
            ),
            save(
                f"the key of another answer in a session that is {state}",
                {"sessionId": f"${state}", "choice": "A"},
                code="ALREADY_EXISTS",
                reason="IDEMPOTENCY_KEY_REUSED",
                key=SAVED_KEY,
            ),
        )
    ),
    save("after the bell", {"sessionId": "$rung", "choice": "A"}, code="FAILED_PRECONDITION", reason="SESSION_SUBMITTED"),
]


def batch(what: str, items: Any, names: str | None = None, **more: Any) -> Row:
    return Row(f"batch: {what}", "BatchSaveAnswers", {"sessionId": "$live", "items": items}, names=names, **more)


ITEM = {"questionId": "q1", "choice": "B", "idempotencyKey": "an-item-of-a-batch"}

BATCH = [
    batch("no items", [], "items"),
    batch("15,000 items", [{}] * 15_000, "items"),
    batch("100 items of nothing", [{}] * 100),
    batch("101 items", [{**ITEM, "idempotencyKey": f"item-number-{n}"} for n in range(101)], "items"),
    batch("an item without a key", [{"questionId": "q1", "choice": "B"}], "items[0].idempotencyKey"),
    batch("an item without an answer", [{"questionId": "q1", "idempotencyKey": "12345678"}], "items[0].answer"),
    batch("an item without a question", [{"choice": "B", "idempotencyKey": "12345678"}], "items[0].questionId"),
    batch("another's session", [ITEM], code="NOT_FOUND", reason="SESSION_NOT_FOUND", who="other"),
    batch("text over 20 KB", [{"questionId": "q4", "text": "x" * 20_481, "idempotencyKey": "12345678"}], "items[0].text"),
    batch("items that fit no question", [{**ITEM, "choice": "Z"}, {**ITEM, "questionId": "q9"}], code="OK", reason=""),
]

PAUSE = [
    Row("pause: not allowed", "PauseSession", {"sessionId": "$spare"}, "FAILED_PRECONDITION", "PAUSE_NOT_ALLOWED"),
    Row("pause: used up", "PauseSession", {"sessionId": "$resumed"}, "FAILED_PRECONDITION", "PAUSE_NOT_ALLOWED"),
    Row("pause: twice", "PauseSession", {"sessionId": "$paused"}, "OK", ""),
    Row("pause: handed in", "PauseSession", {"sessionId": "$waiting"}, "FAILED_PRECONDITION", "SESSION_SUBMITTED"),
    Row("pause: another's", "PauseSession", {"sessionId": "$theirs"}, *UNKNOWN_SESSION),
    Row("pause: unknown", "PauseSession", {"sessionId": NOBODYS}, *UNKNOWN_SESSION),
    Row("pause: malformed", "PauseSession", {"sessionId": "x"}, names="sessionId"),
    Row("resume: not paused", "ResumeSession", {"sessionId": "$resumed"}, "OK", ""),
    Row("resume: handed in", "ResumeSession", {"sessionId": "$strict"}, "FAILED_PRECONDITION", "SESSION_SUBMITTED"),
    Row("resume: another's", "ResumeSession", {"sessionId": "$theirs"}, *UNKNOWN_SESSION),
    Row("resume: unknown", "ResumeSession", {"sessionId": NOBODYS}, *UNKNOWN_SESSION),
    Row("resume: malformed", "ResumeSession", {"sessionId": "x"}, names="sessionId"),
]

SUBMIT = [
    Row("submit: no key", "SubmitSession", {"sessionId": "$live"}, key="", names="idempotencyKey"),
    Row("submit: bad key", "SubmitSession", {"sessionId": "$live"}, key="short", names="idempotencyKey"),
    Row("submit: another's", "SubmitSession", {"sessionId": "$theirs"}, *UNKNOWN_SESSION),
    Row("submit: unknown", "SubmitSession", {"sessionId": NOBODYS}, *UNKNOWN_SESSION),
    Row("submit: malformed", "SubmitSession", {"sessionId": "x"}, names="sessionId"),
    Row("submit: by staff", "SubmitSession", {"sessionId": "$live"}, *UNKNOWN_SESSION, who="proctor"),
    Row("submit: again, with the same key", "SubmitSession", {"sessionId": "$strict"}, "OK", "", key=SUBMIT_KEY),
    Row("submit: again, with another key", "SubmitSession", {"sessionId": "$strict"}, "OK", ""),
    Row("submit: again, while it waits", "SubmitSession", {"sessionId": "$waiting"}, "OK", "", key=SUBMIT_KEY, status=202),
    Row("submit: after the bell's", "SubmitSession", {"sessionId": "$rung"}, "OK", ""),
]

LATE = [
    Row(
        "submit: after the end",
        "SubmitSession",
        {"sessionId": f"$ended-{way}"},
        "FAILED_PRECONDITION",
        "SESSION_ENDED",
        way=way,
    )
    for way in (*TRANSPORTS, "service")
]
"""Each rings the bell for its session, the one change that a refusal may bring."""


def sealed(position: str, scope: str) -> str:
    """A page token as anybody can make one who has read how (servers/messages.py)."""
    seal = blake2b(position.encode(), key=blake2b(scope.encode(), digest_size=32).digest(), digest_size=8).digest()
    return urlsafe_b64encode(seal + position.encode()).decode()


UNKNOWN_SEALED = ("NOT_FOUND", "SEALED_PAPER_NOT_FOUND")
UNKNOWN_BANK = ("NOT_FOUND", "BANK_NOT_FOUND")
UNKNOWN_QUESTION = ("NOT_FOUND", "QUESTION_NOT_FOUND")


def sealed_paper(what: str, names: str | None = None, **fields: Any) -> Row:
    return Row(f"sealed paper: {what}", "GetSealedPaper", {"examId": "w-open", "version": 1, **fields}, names=names)


def explanation(
    what: str, exam: str, question: str, code: str = "INVALID_ARGUMENT", reason: str = "INVALID_FIELD", **more: Any
) -> Row:
    return Row(f"explanation: {what}", "GetExplanation", {"examId": exam, "questionId": question}, code, reason, **more)


def practice(
    what: str,
    names: str | None = None,
    question: str = "p1",
    code: str = "INVALID_ARGUMENT",
    reason: str = "INVALID_FIELD",
    **answer: Any,
) -> Row:
    """An answer to a practice question."""
    fields = {"bankId": "w-bank", "questionId": question, **answer}
    return Row(f"practice: {what}", "CheckAnswer", fields, code, reason, names=names)


READ = [
    *(
        row
        for method in ("GetSession", "ExplainDeadline", "GetResult")
        for row in (
            Row(f"{method}: another's", method, {"sessionId": "$theirs"}, *UNKNOWN_SESSION),
            Row(f"{method}: unknown", method, {"sessionId": NOBODYS}, *UNKNOWN_SESSION),
            Row(f"{method}: malformed", method, {"sessionId": "%00"}, names="sessionId"),
        )
    ),
    Row("result: before the submit", "GetResult", {"sessionId": "$live"}, "FAILED_PRECONDITION", "SESSION_IN_PROGRESS"),
    Row("result: before the bell", "GetResult", {"sessionId": "$ended-rest"}, "FAILED_PRECONDITION", "SESSION_IN_PROGRESS"),
    Row("result: while it waits", "GetResult", {"sessionId": "$waiting"}, "OK", "", status=202),
    Row("result: of a score that is held back", "GetResult", {"sessionId": "$held"}, "OK", ""),
    Row("result: of an exam without review", "GetResult", {"sessionId": "$terse"}, "OK", ""),
    Row("sessions: page of 201", "ListSessions", {"pageSize": 201}, names="pageSize"),
    Row("sessions: page of -1", "ListSessions", {"pageSize": -1}, names="pageSize"),
    Row("sessions: made-up page token", "ListSessions", {"pageToken": "made-up"}, names="pageToken"),
    Row("sessions: malformed exam", "ListSessions", {"examId": "No Exam"}, names="examId"),
    Row("exams: page of 201", "ListExams", {"pageSize": 201}, names="pageSize"),
    Row("exams: made-up page token", "ListExams", {"pageToken": "AAAA"}, names="pageToken"),
    Row("exams: page token of 257 characters", "ListExams", {"pageToken": "x" * 257}, names="pageToken"),
    Row("exam: unknown", "GetExam", {"examId": "w-nowhere"}, "NOT_FOUND", "EXAM_NOT_FOUND"),
    Row("exam: malformed", "GetExam", {"examId": "W"}, names="examId"),
    Row("paper: before it opens", "GetPaper", {"examId": "w-later"}, "FAILED_PRECONDITION", "EXAM_NOT_OPEN"),
    Row("paper: without a session", "GetPaper", {"examId": "w-open"}, "FAILED_PRECONDITION", "SESSION_REQUIRED", who="rita"),
    Row("paper: not bought", "GetPaper", {"examId": "w-sold"}, "FAILED_PRECONDITION", "SESSION_REQUIRED"),
    Row("paper: unknown", "GetPaper", {"examId": "w-nowhere"}, "NOT_FOUND", "EXAM_NOT_FOUND"),
    sealed_paper("of no version", "version", version=0),
    sealed_paper("of a version below zero", "version", version=-1),
    sealed_paper("of a version that is no number", version="one"),
    sealed_paper("malformed exam", "examId", examId="W"),
    Row("sealed paper: unknown exam", "GetSealedPaper", {"examId": "w-nowhere", "version": 1}, *UNKNOWN_SEALED),
    Row("sealed paper: unknown version", "GetSealedPaper", {"examId": "w-open", "version": 2147483647}, *UNKNOWN_SEALED),
    explanation("before it opens", "w-later", "q1", "FAILED_PRECONDITION", "EXAM_NOT_OPEN"),
    explanation("never sat", "w-open", "q1", "FAILED_PRECONDITION", "SESSION_REQUIRED", who="rita"),
    explanation("while it is sat", "w-open", "q1", "FAILED_PRECONDITION", "SESSION_IN_PROGRESS"),
    explanation("before the score", "w-waiting", "q1", "FAILED_PRECONDITION", "SESSION_UNSCORED"),
    explanation("of a result that is shown", "w-strict", "q1", "OK", ""),
    explanation("of a score that is held back", "w-held", "q1", "FAILED_PRECONDITION", "REVIEW_WITHHELD"),
    explanation("of an exam without review", "w-terse", "q1", "FAILED_PRECONDITION", "REVIEW_WITHHELD"),
    explanation("of an unknown exam", "w-nowhere", "q1", "NOT_FOUND", "EXAM_NOT_FOUND"),
    explanation("of an unknown question", "w-strict", "q9", "NOT_FOUND", "QUESTION_NOT_FOUND"),
    explanation("malformed question", "w-strict", "q 1", names="questionId"),
    Row("banks: page of 201", "ListBanks", {"pageSize": 201}, names="pageSize"),
    Row("banks: made-up page token", "ListBanks", {"pageToken": "AAAA"}, names="pageToken"),
    Row("questions: page of 101", "ListQuestions", {"pageSize": 101}, names="pageSize"),
    Row("questions: page of -1", "ListQuestions", {"pageSize": -1}, names="pageSize"),
    Row("questions: topic of 101 characters", "ListQuestions", {"topic": "x" * 101}, names="topic"),
    Row("questions: malformed bank", "ListQuestions", {"bankId": "B"}, names="bankId"),
    Row("questions: unknown bank", "ListQuestions", {"bankId": "w-nowhere"}, *UNKNOWN_BANK),
    Row("questions: an exam is no bank", "ListQuestions", {"bankId": "w-open"}, *UNKNOWN_BANK),
    Row("questions: unknown topic", "ListQuestions", {"topic": "nothing"}, "OK", ""),
    Row("questions: made-up page token", "ListQuestions", {"pageToken": "made-up"}, names="pageToken"),
    Row(
        "questions: page token of another topic",
        "ListQuestions",
        {"topic": "places", "pageToken": sealed("w-bank/1", "questions//numbers")},
        names="pageToken",
    ),
    Row(
        "questions: page token without a place", "ListQuestions", {"pageToken": sealed("w-bank", "questions//")}, names="pageToken"
    ),
    Row(
        "questions: page token of a place too far",
        "ListQuestions",
        {"pageToken": sealed(f"w-bank/{2**31}", "questions//")},
        names="pageToken",
    ),
    Row("solution: unknown bank", "GetSolution", {"bankId": "w-nowhere", "questionId": "p1"}, *UNKNOWN_BANK),
    Row("solution: unknown question", "GetSolution", {"bankId": "w-bank", "questionId": "q1"}, *UNKNOWN_QUESTION),
    Row("solution: malformed question", "GetSolution", {"bankId": "w-bank", "questionId": "p.1"}, names="questionId"),
    practice("nothing answered"),
    practice("choice '' ", "choice", choice=""),
    practice("not an option", "choice", choice="Z"),
    practice("another kind of answer", "number", number="1"),
    practice("no number", "number", question="p3", number="1,000"),
    practice("picks twice", "choices.ids", question="p2", choices={"ids": ["A", "A"]}),
    practice("no picks", "choices.ids", question="p2", choices={"ids": []}),
    practice("text of 2,049 bytes", "text", question="p4", text="x" * 2049),
    practice("NUL", "text", question="p4", text="a\0b"),
    practice("essay", "text", question="p5", text="It is."),
    practice("right", code="OK", reason="", choice="B"),
    practice("unknown question", code="NOT_FOUND", reason="QUESTION_NOT_FOUND", question="p9", choice="B"),
    role("DeleteBank", "proctor", bankId="w-bank"),
    role("DeleteBank", "wally", bankId="w-bank"),
    Row("bank: deletes an unknown one", "DeleteBank", {"bankId": "w-nowhere"}, *UNKNOWN_BANK, who="admin"),
    Row("bank: deletes a malformed one", "DeleteBank", {"bankId": "W"}, names="bankId", who="admin"),
]


def board(what: str, names: str | None = None, **fields: Any) -> Row:
    return Row(f"board: {what}", "GetLeaderboard", {"examId": "w-strict", **fields}, names=names)


BOARD = [
    board("top 0", "top", top=0),
    board("top -1", "top", top=-1),
    board("top 1001", "top", top=1001),
    board("top abc", top="abc"),
    board("top 1.5", top=1.5),
    board("around somebody", "around", around="other"),
    board("cohort in capitals", "cohort", cohort="RED"),
    board("window 0", "window", around="me", window=0),
    board("window 101", "window", around="me", window=101),
    board("series in capitals", "series", series="SPRING"),
    board("made-up page token", "pageToken", pageToken="made-up"),
    board("page token of 513 characters", "pageToken", pageToken="x" * 513),
    board("page token of another board", "pageToken", pageToken=sealed("d5/0/0123456789abcdef", "leaderboard/w-open//")),
    board("page token without a place", "pageToken", pageToken=sealed("5/0", "leaderboard/w-strict//")),
    Row(
        "board: a series that it is not in",
        "GetLeaderboard",
        {"examId": "w-strict", "series": "w-nowhere"},
        "NOT_FOUND",
        "SERIES_NOT_FOUND",
    ),
    Row("board: not ranked yet", "GetLeaderboard", {"examId": "w-strict", "around": "me"}, "OK", "", who="rita"),
    Row("board: unknown exam", "GetLeaderboard", {"examId": "w-nowhere"}, "NOT_FOUND", "EXAM_NOT_FOUND"),
    Row("board: malformed exam", "GetLeaderboard", {"examId": "lb:{w-strict}"}, names="examId"),
    Row(
        "board: another's cohort",
        "GetLeaderboard",
        {"examId": "w-strict", "cohort": "blue"},
        "PERMISSION_DENIED",
        "COHORT_FORBIDDEN",
        who="rita",
    ),
]

LECTURES = [
    Row("lectures: malformed id", "GetLecture", {"lectureId": "W"}, names="lectureId"),
    Row("lectures: unknown", "GetLecture", {"lectureId": "w-nowhere"}, "NOT_FOUND", "LECTURE_NOT_FOUND"),
    Row("lectures: playback of none", "GetPlayback", {"lectureId": "w-nowhere"}, "NOT_FOUND", "LECTURE_NOT_FOUND"),
    Row("lectures: made-up page token", "ListLectures", {"pageToken": "made-up"}, names="pageToken"),
    Row("lectures: page of 201", "ListLectures", {"pageSize": 201}, names="pageSize"),
    Row("lectures: NUL in the topic", "ListLectures", {"topic": "a\0b"}, names="topic"),
]

NO_SIGNAL: dict[str, Any] = {"focusLost": {}}


CASE: Mapping[str, Any] = {"examId": "w-strict", "sessionIds": ["$strict"], "note": "a look"}
STEP: Mapping[str, Any] = {"caseId": NOBODYS, "revision": 1, "toState": "REVIEWED", "note": "read"}
CHANGING: Mapping[str, Mapping[str, Any]] = {"AnalyseExam": {}, "OpenCase": {"sessionIds": ["$live"], "note": "x"}}


def analysis(what: str, names: str, **fields: Any) -> Row:
    """A run that is not made."""
    return Row(f"analysis: {what}", "AnalyseExam", {"examId": "w-strict", **fields}, names=names, who="admin")


def case(what: str, names: str, **fields: Any) -> Row:
    """A case that is not opened."""
    return Row(f"case: {what}", "OpenCase", {**CASE, **fields}, names=names, who="admin")


def step(what: str, names: str, **fields: Any) -> Row:
    """A step that is not made."""
    return Row(f"step: {what}", "MoveCase", {**STEP, **fields}, names=names, who="admin")


def signals(what: str, names: str, *reported: Mapping[str, Any], **more: Any) -> Row:
    return Row(f"signals: {what}", "ReportSignals", {"sessionId": "$live", "signals": list(reported), **more}, names=names)


SIGNALS = [
    signals("over a hundred", "signals", *[NO_SIGNAL] * 101),
    signals("away for less than no time", "signals[1].focusRegained.awayMs", NO_SIGNAL, {"focusRegained": {"awayMs": -1}}),
    signals("away for more than a day", "signals[0].focusRegained.awayMs", {"focusRegained": {"awayMs": 86_400_001}}),
    signals("a text of less than no length", "signals[0].paste.length", {"paste": {"length": -5}}),
    signals("a hash that is a text", "signals[0].copy.digest", {"copy": {"digest": "QUFB" * 20}}),
    signals("a label of 129 characters", "signals[0].deviceChange.label", {"deviceChange": {"label": "x" * 129}}),
    signals("65 displays", "signals[0].displayCount.count", {"displayCount": {"count": 65}}),
    signals("a frame that has no id", "signals[0].webcamFrame.frameId", {"webcamFrame": {"frameId": "../x"}}),
    signals("a device id with a space", "deviceId", NO_SIGNAL, deviceId="a b"),
    Row("signals: malformed session", "ReportSignals", {"sessionId": "x"}, names="sessionId"),
    Row("signals: another's session", "ReportSignals", {"sessionId": "$theirs", "signals": [NO_SIGNAL]}, *UNKNOWN_SESSION),
    Row("signals: nobody's session", "ReportSignals", {"sessionId": NOBODYS, "signals": [NO_SIGNAL]}, *UNKNOWN_SESSION),
    Row(
        "signals: a kind that nobody knows",
        "ReportSignals",
        {"sessionId": "$live", "signals": [{"telepathy": {}}]},
        "OK",
        "",
        status=202,
        way="rest",
    ),
    Row(
        "signals: control characters",
        "ReportSignals",
        {"sessionId": "$live", "signals": [{"deviceChange": {"label": "\0\x1b[31m"}}]},
        "OK",
        "",
        status=202,
    ),
    Row(
        "frame: of no size",
        "CreateFrameUpload",
        {"sessionId": "$live", "contentType": "image/jpeg", "sizeBytes": 0},
        names="sizeBytes",
    ),
    Row(
        "frame: no picture",
        "CreateFrameUpload",
        {"sessionId": "$live", "contentType": "text/html", "sizeBytes": 1},
        names="contentType",
    ),
    Row(
        "frame: of another's session",
        "CreateFrameUpload",
        {"sessionId": "$theirs", "contentType": "image/jpeg", "sizeBytes": 1},
        *UNKNOWN_SESSION,
    ),
    role("SetThresholds", "proctor", examId="w-open", changes=[{"name": "copy"}]),
    role("GetThresholds", "wally", examId="w-open"),
    role("EraseSignals", "proctor", studentId="wally"),
    Row("thresholds: none to set", "SetThresholds", {"examId": "w-open"}, names="changes", who="admin"),
    Row(
        "thresholds: no such indicator",
        "SetThresholds",
        {"examId": "w-open", "changes": [{"name": "copy", "threshold": 9}, {"name": "telepathy"}]},
        names="changes[1].name",
        who="admin",
    ),
    Row(
        "thresholds: one twice",
        "SetThresholds",
        {"examId": "w-open", "changes": [{"name": "copy", "threshold": 9}, {"name": "copy", "threshold": 8}]},
        names="changes[1].name",
        who="admin",
    ),
    Row(
        "thresholds: 0",
        "SetThresholds",
        {"examId": "w-open", "changes": [{"name": "copy", "threshold": 0}]},
        names="changes[0].threshold",
        who="admin",
    ),
    Row(
        "thresholds: of no exam",
        "SetThresholds",
        {"examId": "w-nowhere", "changes": [{"name": "copy"}]},
        "NOT_FOUND",
        "EXAM_NOT_FOUND",
        who="admin",
    ),
    *(role(name, "proctor", examId="w-open", **more) for name, more in CHANGING.items()),
    role("GetAnalysis", "wally", examId="w-strict"),
    role("ListPairs", "wally", examId="w-strict"),
    role("GetCase", "wally", caseId=NOBODYS),
    role("ListCases", "wally", studentId="wally"),
    role("ExportCase", "grader", caseId=NOBODYS),
    role("MoveCase", "proctor", caseId=NOBODYS, revision=1, toState="REVIEWED", note="x"),
    analysis("malformed exam", "examId", examId="W"),
    analysis("an error rate of 1", "fdr", fdr=1.0),
    analysis("no error at all", "fdr", fdr=0.0),
    analysis("a thousand and one pairs", "strongest", strongest=1_001),
    analysis("a grouping twice", "groupings", groupings=["ROOM", "ROOM"]),
    analysis("no grouping", "groupings[0]", groupings=["GROUPING_UNSPECIFIED"]),
    Row("analysis: of no exam", "AnalyseExam", {"examId": "w-nowhere"}, "NOT_FOUND", "EXAM_NOT_FOUND", who="admin"),
    Row("analysis: before the end", "AnalyseExam", {"examId": "w-open"}, "FAILED_PRECONDITION", "EXAM_NOT_ENDED", who="admin"),
    Row("analysis: none yet", "GetAnalysis", {"examId": "w-open"}, "NOT_FOUND", "ANALYSIS_NOT_FOUND", who="admin"),
    Row("analysis: a run before the first", "GetAnalysis", {"examId": "w-open", "version": -1}, names="version", who="admin"),
    Row("pairs: none yet", "ListPairs", {"examId": "w-open"}, "NOT_FOUND", "ANALYSIS_NOT_FOUND", who="admin"),
    Row("pairs: too many", "ListPairs", {"examId": "w-open", "pageSize": 201}, names="pageSize", who="admin"),
    case("about nobody", "sessionIds", sessionIds=[]),
    case("about nine", "sessionIds", sessionIds=[NOBODYS[:-1] + str(n) for n in range(9)]),
    case("about one twice", "sessionIds", sessionIds=[NOBODYS, NOBODYS]),
    case("about one twice, once in capitals", "sessionIds[1]", sessionIds=[NOBODYS[:-1] + "a", NOBODYS[:-1] + "A"]),
    case("about a session that is none", "sessionIds[0]", sessionIds=["x"]),
    case("without a reason", "note", note=""),
    case("a reason with a NUL", "note", note="a\0b"),
    case("a reason too long", "note", note="x" * 4_001),
    Row("case: of no exam", "OpenCase", {**CASE, "examId": "w-nowhere"}, "NOT_FOUND", "EXAM_NOT_FOUND", who="admin"),
    Row("case: of another exam", "OpenCase", {**CASE, "examId": "w-held"}, *UNKNOWN_SESSION, who="admin"),
    Row(
        "case: before the score",
        "OpenCase",
        {**CASE, "examId": "w-open", "sessionIds": ["$live"]},
        "FAILED_PRECONDITION",
        "SESSION_UNSCORED",
        who="admin",
    ),
    Row("case: unknown", "GetCase", {"caseId": NOBODYS}, "NOT_FOUND", "CASE_NOT_FOUND", who="admin"),
    Row("case: malformed", "GetCase", {"caseId": "x"}, names="caseId", who="admin"),
    Row("case: exported, unknown", "ExportCase", {"caseId": NOBODYS}, "NOT_FOUND", "CASE_NOT_FOUND", who="admin"),
    Row("cases: made-up page token", "ListCases", {"pageToken": "made-up"}, names="pageToken", who="admin"),
    Row("cases: malformed student", "ListCases", {"studentId": "a b"}, names="studentId", who="admin"),
    step("back to the beginning", "toState", toState="OPEN"),
    step("nowhere", "toState", toState="STATE_UNSPECIFIED"),
    step("without a reason", "note", note=""),
    step("from no revision", "revision", revision=0),
    Row("step: unknown case", "MoveCase", STEP, "NOT_FOUND", "CASE_NOT_FOUND", who="admin"),
    Row("erasure: malformed student", "EraseSignals", {"studentId": "a b"}, names="studentId", who="admin"),
]

# Staff


def lever(name: str, code: str = "INVALID_ARGUMENT", reason: str = "INVALID_FIELD", names: str | None = None, **fields: Any) -> Row:
    return Row(f"{name} a board: {fields}", f"{name}Leaderboard", fields, code, reason, names=names, who="admin")


def series(what: str, names: str, **fields: Any) -> Row:
    return Row(f"series: {what}", "SetExamSeries", {"seriesId": "w-series", **fields}, names=names, who="admin")


def lecture(what: str, names: str, **fields: Any) -> Row:
    whole = {"lectureId": "w-lecture", "title": "A lecture", "durationSeconds": 1, **fields}
    return Row(f"lecture: {what}", "SetLecture", whole, names=names, who="admin")


CAPTIONS = {"language": "en", "label": "English", "file": "en.vtt"}

STAFF = [
    lecture("without a title", "title", title=""),
    lecture("NUL in the title", "title", title="a\0b"),
    lecture("malformed id", "lectureId", lectureId="W"),
    lecture("no time at all", "durationSeconds", durationSeconds=0),
    lecture("more than a day", "durationSeconds", durationSeconds=86_401),
    lecture("a folder that climbs", "folder", folder=".."),
    lecture("a folder in a folder", "folder", folder="a/b"),
    *(
        lecture(f"playlist {name}", "playlist", playlist=name)
        for name in ("../x.m3u8", "/x.m3u8", "x.mp4", "a//b.m3u8", "x.m3u8\n")
    ),
    lecture("captions that climb", "captions[0].file", captions=[{**CAPTIONS, "file": "../en.vtt"}]),
    lecture("captions in no language", "captions[0].language", captions=[{**CAPTIONS, "language": "english!"}]),
    lecture("captions without a label", "captions[0].label", captions=[{**CAPTIONS, "label": ""}]),
    lecture("a language twice", "captions[1].language", captions=[CAPTIONS, {**CAPTIONS, "language": "EN"}]),
    lecture("51 captions", "captions", captions=[CAPTIONS] * 51),
    Row("lecture: not there", "DeleteLecture", {"lectureId": "w-nowhere"}, "NOT_FOUND", "LECTURE_NOT_FOUND", who="admin"),
    *(lever(name, "NOT_FOUND", "EXAM_NOT_FOUND", examId="w-nowhere") for name in ("Freeze", "Reveal", "Release")),
    lever("Reveal", names="steps", examId="w-strict", steps=0),
    lever("Reveal", names="steps", examId="w-strict", steps=101),
    series("without exams", "examIds", examIds=[]),
    series("an exam twice", "examIds", examIds=["w-open", "w-open"]),
    series("no such exam", "examIds[0]", examIds=["w-nowhere"]),
    series("best of none", "bestOf", examIds=["w-open"], bestOf=0),
    Row("series: not there", "DeleteExamSeries", {"seriesId": "w-nowhere"}, "NOT_FOUND", "SERIES_NOT_FOUND", who="admin"),
    Row("results: unknown exam", "ListResults", {"examId": "w-nowhere"}, "NOT_FOUND", "EXAM_NOT_FOUND", who="admin"),
    Row("results: page of 1001", "ListResults", {"examId": "w-strict", "pageSize": 1001}, names="pageSize", who="admin"),
    Row(
        "results: made-up page token", "ListResults", {"examId": "w-strict", "pageToken": "made-up"}, names="pageToken", who="admin"
    ),
    Row("reports: made-up page token", "ListExamReports", {"pageToken": "made-up"}, names="pageToken", who="admin"),
    Row("dead letters: made-up page token", "ListDeadLetters", {"pageToken": "made-up"}, names="pageToken", who="admin"),
    Row("statistics: malformed exam", "ComputeItemStatistics", {"examId": "W"}, names="examId", who="admin"),
    Row("statistics: none yet", "GetItemStatistics", {"examId": "w-later"}, "NOT_FOUND", "STATISTICS_NOT_FOUND", who="admin"),
    Row("dead letters: malformed", "ReplayDeadLetter", {"letterId": "0"}, names="letterId", who="admin"),
    Row("dead letters: unknown", "ReplayDeadLetter", {"letterId": "1"}, "NOT_FOUND", "DEAD_LETTER_NOT_FOUND", who="admin"),
    Row("dead letters: discarded without a reason", "DiscardDeadLetter", {"letterId": "1"}, names="reason", who="admin"),
    *(
        Row(
            f"{method}: a page token of one's own making, {position!r}",
            method,
            {**more, "pageToken": sealed(position, scope)},
            names="pageToken",
            who=who,
        )
        for method, scope, who, more, positions in (
            ("ListSessions", "sessions/wally/", "wally", {}, ("x", "0" * 31)),
            ("ListExams", "exams", "wally", {}, ("a\0b", "X")),
            ("ListExamReports", "reports", "admin", {}, ("a\0b",)),
            ("ListDeadLetters", "letters", "admin", {}, ("x", "9" * 30)),
            ("ListResults", "results/w-strict", "admin", {"examId": "w-strict"}, ("x", "1", "1/2", f"{2**31}/{NOBODYS}")),
        )
        for position in positions
    ),
    *(
        Row(f"{method}: unknown exam", method, {"examId": "w-nowhere"}, "NOT_FOUND", "EXAM_NOT_FOUND", who="admin")
        for method in (
            *("CloseExam", "ReleaseExam", "WarmExam", "GetExamReport"),
            *("RebuildLeaderboard", "VerifyLeaderboard", "CreateRehearsal"),
            *("ComputeItemStatistics", "GetItemStatistics"),
        )
    ),
    Row(
        "rehearsal: too long",
        "CreateRehearsal",
        {"examId": "w-open", "sessionSeconds": 604_801},
        names="sessionSeconds",
        who="admin",
    ),
    Row("rehearsal: none", "RemoveRehearsal", {"rehearsalId": "w-open"}, "NOT_FOUND", "EXAM_NOT_FOUND", who="admin"),
    Row(
        "schedule: a close that has passed",
        "UpdateSchedule",
        {"examId": "w-open", "closesAt": "2001-01-01T00:00:00Z"},
        names="closesAt",
        who="admin",
    ),
    *(
        Row(f"schedule: {field} {moment}", "UpdateSchedule", {"examId": "w-open", field: moment}, names=field, who="admin")
        for field in ("opensAt", "closesAt")
        for moment in ("0001-01-01T00:00:00Z", "1999-12-31T23:59:59Z", "2200-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z")
    ),
    Row(
        "schedule: set and cleared",
        "UpdateSchedule",
        {"examId": "w-open", "closesAt": "2099-01-01T00:00:00Z", "clearClosesAt": True},
        names="closesAt",
        who="admin",
    ),
    Row(
        "schedule: closes before it opens",
        "UpdateSchedule",
        {"examId": "w-open", "opensAt": "2099-01-02T00:00:00Z", "closesAt": "2099-01-01T00:00:00Z"},
        names="closesAt",
        who="admin",
    ),
    Row(
        "schedule: unknown exam",
        "UpdateSchedule",
        {"examId": "w-nowhere", "clearClosesAt": True},
        "NOT_FOUND",
        "EXAM_NOT_FOUND",
        who="admin",
    ),
    Row(
        "accommodation: NUL in the reason",
        "SetAccommodation",
        {"studentId": "wally", "extraSeconds": 5, "reason": "a\0b"},
        names="reason",
        who="proctor",
    ),
    Row("accommodation: nothing", "SetAccommodation", {"studentId": "wally"}, names="extra", who="proctor"),
    Row("accommodation: factor 0.5", "SetAccommodation", {"studentId": "wally", "factor": 0.5}, names="factor", who="proctor"),
    Row("accommodation: factor 11", "SetAccommodation", {"studentId": "wally", "factor": 11}, names="factor", who="proctor"),
    Row("accommodation: factor NaN", "SetAccommodation", {"studentId": "wally", "factor": "NaN"}, names="factor", who="proctor"),
    Row(
        "accommodation: less time",
        "SetAccommodation",
        {"studentId": "wally", "extraSeconds": -1},
        names="extraSeconds",
        who="proctor",
    ),
    Row(
        "accommodation: more than a day",
        "SetAccommodation",
        {"studentId": "wally", "extraSeconds": 86401},
        names="extraSeconds",
        who="proctor",
    ),
    Row(
        "accommodation: malformed student",
        "SetAccommodation",
        {"studentId": "w ally", "factor": 2},
        names="studentId",
        who="proctor",
    ),
    Row(
        "accommodation: unknown exam",
        "SetAccommodation",
        {"studentId": "wally", "examId": "w-nowhere", "factor": 2},
        "NOT_FOUND",
        "EXAM_NOT_FOUND",
        who="proctor",
    ),
    Row(
        "adjustment: of nothing",
        "AdjustDeadline",
        {"sessionId": "$live", "seconds": 0, "reason": "r"},
        names="seconds",
        who="proctor",
    ),
    Row(
        "adjustment: of more than a day",
        "AdjustDeadline",
        {"sessionId": "$live", "seconds": 86401, "reason": "r"},
        names="seconds",
        who="proctor",
    ),
    Row(
        "adjustment: into the past",
        "AdjustDeadline",
        {"sessionId": "$live", "seconds": -86400, "reason": "r"},
        names="seconds",
        who="proctor",
    ),
    Row(
        "adjustment: NUL in the reason",
        "AdjustDeadline",
        {"sessionId": "$live", "seconds": 60, "reason": "a\0b"},
        names="reason",
        who="proctor",
    ),
    Row("adjustment: without a reason", "AdjustDeadline", {"sessionId": "$live", "seconds": 60}, names="reason", who="proctor"),
    Row(
        "adjustment: without a key",
        "AdjustDeadline",
        {"sessionId": "$live", "seconds": 60, "reason": "r"},
        key="",
        names="idempotencyKey",
        who="proctor",
    ),
    Row(
        "adjustment: of a session that is handed in",
        "AdjustDeadline",
        {"sessionId": "$strict", "seconds": 60, "reason": "r"},
        "FAILED_PRECONDITION",
        "SESSION_SUBMITTED",
        who="proctor",
    ),
    Row(
        "adjustment: of an unknown session",
        "AdjustDeadline",
        {"sessionId": NOBODYS, "seconds": 60, "reason": "r"},
        *UNKNOWN_SESSION,
        who="proctor",
    ),
    Row(
        "adjustment: malformed",
        "AdjustDeadline",
        {"sessionId": "x", "seconds": 60, "reason": "r"},
        names="sessionId",
        who="proctor",
    ),
]

ROWS = [*EVERYWHERE, *START, *SAVE, *BATCH, *PAUSE, *SUBMIT, *READ, *BOARD, *LECTURES, *SIGNALS, *STAFF]
