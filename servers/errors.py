"""Refusals: what a caller may be told, each a class with a code and a stable reason; and how one is written on the wire."""

from collections.abc import Sequence
from typing import ClassVar

from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc import StatusCode

DOMAIN = "finalbell"


class Refusal(Exception):
    """A call that is refused; `facts` travel in `ErrorInfo.metadata`, `retry_seconds` in `RetryInfo`."""

    code: ClassVar[StatusCode]
    reason: ClassVar[str]
    retry_seconds: float | None = None

    def __init__(self, message: str, *, retry_seconds: float | None = None, **facts: str) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts
        if retry_seconds is not None:
            self.retry_seconds = retry_seconds


class InvalidField(Refusal):
    """A field is missing or malformed; `violations` are (field path as in JSON, description).

    As many go on the wire as its metadata takes, and the message says how many there are.
    """

    code = StatusCode.INVALID_ARGUMENT
    reason = "INVALID_FIELD"
    room: ClassVar[int] = 3_000
    """Bytes for violations: gRPC's clients take 8 KB of metadata in all."""

    def __init__(self, violations: Sequence[tuple[str, str]]) -> None:
        first = "; ".join(f"{field}: {why}" if field else why for field, why in violations[:3])
        more = f"; and {len(violations) - 3} more" if len(violations) > 3 else ""
        super().__init__(f"The request is not valid: {first}{more}.")
        self.violations = violations[: _fitting(violations, self.room)]


class InvalidExam(InvalidField):
    """An exam file has errors; all of them are listed, as far as they fit."""

    reason = "INVALID_EXAM"
    room = 40_000
    """Envoy sends no more than 64 KB of metadata, and this grows by a third on its way."""

    what: ClassVar[str] = "exam"

    def __init__(self, violations: Sequence[tuple[str, str]]) -> None:
        super().__init__(violations)
        errors = "1 error" if len(violations) == 1 else f"{len(violations)} errors"
        listed = "" if len(self.violations) == len(violations) else f", the first {len(self.violations)} of which are listed"
        self.message = f"The {self.what} file has {errors}{listed}; nothing was imported."


class InvalidBank(InvalidExam):
    """A bank's file has errors."""

    reason = "INVALID_BANK"
    what = "bank"


class TokenInvalid(Refusal):
    code = StatusCode.UNAUTHENTICATED
    reason = "TOKEN_INVALID"


class TokenExpired(Refusal):
    code = StatusCode.UNAUTHENTICATED
    reason = "TOKEN_EXPIRED"


class RoleRequired(Refusal):
    code = StatusCode.PERMISSION_DENIED
    reason = "ROLE_REQUIRED"


class EntitlementRequired(Refusal):
    code = StatusCode.PERMISSION_DENIED
    reason = "ENTITLEMENT_REQUIRED"


class NotEnrolled(Refusal):
    code = StatusCode.PERMISSION_DENIED
    reason = "NOT_ENROLLED"


class CohortForbidden(Refusal):
    code = StatusCode.PERMISSION_DENIED
    reason = "COHORT_FORBIDDEN"


class ExamNotFound(Refusal):
    code = StatusCode.NOT_FOUND
    reason = "EXAM_NOT_FOUND"


class SealedPaperNotFound(Refusal):
    code = StatusCode.NOT_FOUND
    reason = "SEALED_PAPER_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("There is no such sealed paper. Start the exam, and ask for its paper.")


class BankNotFound(Refusal):
    code = StatusCode.NOT_FOUND
    reason = "BANK_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("There is no such bank. ListBanks has all of them.")


class ProductNotFound(Refusal):
    code = StatusCode.NOT_FOUND
    reason = "PRODUCT_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("There is no such product. ListProducts has all that can be bought.")


class PaymentNotFound(Refusal):
    code = StatusCode.NOT_FOUND
    reason = "PAYMENT_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("There is no such order, or it is not yours.")


class ProviderUnknown(Refusal):
    code = StatusCode.NOT_FOUND
    reason = "PROVIDER_UNKNOWN"

    def __init__(self) -> None:
        super().__init__("This installation has no such payment provider.")


class SeriesNotFound(Refusal):
    code = StatusCode.NOT_FOUND
    reason = "SERIES_NOT_FOUND"


class SessionNotFound(Refusal):
    code = StatusCode.NOT_FOUND
    reason = "SESSION_NOT_FOUND"

    def __init__(
        self, message: str = "There is no such session. Check the id, and that the token is the one that started it."
    ) -> None:
        super().__init__(message)


class LectureNotFound(Refusal):
    code = StatusCode.NOT_FOUND
    reason = "LECTURE_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("There is no such lecture.")


class MediaNotConfigured(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "MEDIA_NOT_CONFIGURED"


class FramesNotConfigured(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "FRAMES_NOT_CONFIGURED"


class AnalysisNotFound(Refusal):
    code = StatusCode.NOT_FOUND
    reason = "ANALYSIS_NOT_FOUND"


class CaseNotFound(Refusal):
    code = StatusCode.NOT_FOUND
    reason = "CASE_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("There is no such case.")


class CaseMoved(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "CASE_MOVED"


class CaseStepNotAllowed(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "CASE_STEP_NOT_ALLOWED"


class ExamNotEnded(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "EXAM_NOT_ENDED"


class StatisticsNotFound(Refusal):
    code = StatusCode.NOT_FOUND
    reason = "STATISTICS_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__(
            "This exam has no statistics yet: have them computed first ('finalbell exam stats', ComputeItemStatistics)."
        )


class DeadLetterNotFound(Refusal):
    code = StatusCode.NOT_FOUND
    reason = "DEAD_LETTER_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("There is no such dead letter that waits: it was replayed, discarded, or its session is scored.")


class GradingTaskNotFound(Refusal):
    code = StatusCode.NOT_FOUND
    reason = "GRADING_TASK_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("No such task waits for you: it is graded, cancelled, or in other hands.")


class RegradeNotFound(Refusal):
    code = StatusCode.NOT_FOUND
    reason = "REGRADE_NOT_FOUND"


class QuestionNotFound(Refusal):
    code = StatusCode.NOT_FOUND
    reason = "QUESTION_NOT_FOUND"


class ClaimLost(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "CLAIM_LOST"

    def __init__(self) -> None:
        super().__init__("This claim is not yours any more: it ran out and somebody took the task, or it is graded. Claim anew.")


class TooManyClaims(Refusal):
    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_CLAIMS"


class GradeDiffers(Refusal):
    code = StatusCode.ALREADY_EXISTS
    reason = "GRADE_DIFFERS"


class NothingToReplay(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "NOTHING_TO_REPLAY"


class SessionUnscored(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "SESSION_UNSCORED"


class SessionEnded(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "SESSION_ENDED"


class SessionSubmitted(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "SESSION_SUBMITTED"


class SessionPaused(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "SESSION_PAUSED"


class PauseNotAllowed(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "PAUSE_NOT_ALLOWED"


class SessionInProgress(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "SESSION_IN_PROGRESS"


class SessionRequired(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "SESSION_REQUIRED"


class ReviewWithheld(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "REVIEW_WITHHELD"


class ExamNotOpen(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "EXAM_NOT_OPEN"


class ExamClosed(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "EXAM_CLOSED"


class AttemptsExhausted(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "ATTEMPTS_EXHAUSTED"


class ExamInUse(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "EXAM_IN_USE"


class NotForSale(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "NOT_FOR_SALE"


class CouponRefused(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "COUPON_REFUSED"


class CheckoutRefused(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "CHECKOUT_REFUSED"


class NotRefundable(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "NOT_REFUNDABLE"


class RefundByHand(Refusal):
    code = StatusCode.FAILED_PRECONDITION
    reason = "REFUND_BY_HAND"


class SignatureInvalid(Refusal):
    code = StatusCode.INVALID_ARGUMENT
    reason = "SIGNATURE_INVALID"

    def __init__(self) -> None:
        super().__init__("The message is not signed by the gateway, or not within the last five minutes; nothing was kept.")


class AlreadyOwned(Refusal):
    code = StatusCode.ALREADY_EXISTS
    reason = "ALREADY_OWNED"


class GatewayUnavailable(Refusal):
    """The payment gateway does not answer: the order is kept, and a repeat with the same key goes on with it."""

    code = StatusCode.UNAVAILABLE
    reason = "GATEWAY_UNAVAILABLE"
    retry_seconds = 2.0


class IdempotencyKeyReused(Refusal):
    code = StatusCode.ALREADY_EXISTS
    reason = "IDEMPOTENCY_KEY_REUSED"


class RateLimited(Refusal):
    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "RATE_LIMITED"


class RequestTooLarge(Refusal):
    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "REQUEST_TOO_LARGE"


class Overloaded(Refusal):
    """A queue is full: the call certainly had no effect."""

    code = StatusCode.UNAVAILABLE
    reason = "OVERLOADED"
    retry_seconds = 1.0


class StoreUnavailable(Refusal):
    """A store is away or slow: the call may have had an effect; a repeat with the same key finds out."""

    code = StatusCode.UNAVAILABLE
    reason = "STORE_UNAVAILABLE"
    retry_seconds = 1.0


class Conflict(Refusal):
    """Two transactions met; nothing was changed."""

    code = StatusCode.ABORTED
    reason = "CONFLICT"
    retry_seconds = 0.1


class DeadlineExceeded(Refusal):
    """The caller's time was over before the work was done."""

    code = StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class Internal(Refusal):
    """Something unexpected; only an id leaves the process, the log has the rest under it."""

    code = StatusCode.INTERNAL
    reason = "INTERNAL"


def status(refusal: Refusal) -> status_pb2.Status:
    """Return what goes on the wire: canonical code, message, and the details."""
    details = [error_details_pb2.ErrorInfo(reason=refusal.reason, domain=DOMAIN, metadata=refusal.facts)]
    packed = [_packed(detail) for detail in details]
    if isinstance(refusal, InvalidField):
        violations = [error_details_pb2.BadRequest.FieldViolation(field=f, description=d) for f, d in refusal.violations]
        packed.append(_packed(error_details_pb2.BadRequest(field_violations=violations)))
    if refusal.retry_seconds is not None:
        delay = duration_pb2.Duration(nanos=int(refusal.retry_seconds * 1e9) % 10**9, seconds=int(refusal.retry_seconds))
        packed.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(code=code_pb2.Code.Value(refusal.code.name), message=refusal.message, details=packed)


def _fitting(violations: Sequence[tuple[str, str]], room: int) -> int:
    """Return how many violations fit; the first always goes."""
    for number, (field, description) in enumerate(violations):
        room -= len(field.encode()) + len(description.encode()) + 8
        if room < 0:
            return max(1, number)
    return len(violations)


def _packed(
    detail: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
