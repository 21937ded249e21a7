"""I8 and I9: what a wipe of Redis, or a failover, may have taken of what was acknowledged."""

from collections.abc import Sequence

from ops.audit.records import EPOCH, Call, Evidence, Fault, History, Save


class Losses:
    """What a wipe or a failover may have taken from one session: acknowledged saves that no restore brought back."""

    def __init__(self, session: str, evidence: Evidence) -> None:
        history, stores = evidence.history, evidence.stores
        calls = history.by_session.get(session, ())
        self._session = session
        self._stores = stores
        self._faults = _in_life(history, calls)
        self._wipes = [fault for fault in self._faults if fault.loses]
        row = stores.sessions.get(session)
        self._epoch = row.epoch if row else 0
        self._through = {
            call.reply.epoch: call.reply.restored_through or 0
            for call in calls
            if call.rpc in ("GetSession", "StartSession") and call.reply.epoch
        }

    def wiped(self, save: Save) -> bool:
        """Whether Redis lost saves by a fault's nature after this one was on its way."""
        return any(fault.until_ms >= save.sent_ms for fault in self._wipes)

    def allowed(self, save: Save, version: int | None = None) -> bool:
        """Whether this acknowledged save may be gone: a wipe came, and no restore is known to have brought it back.

        A save that was sent again after a wipe has two versions; `version` is the one that counts, by default the last.
        """
        if not self.wiped(save):
            return False
        version = save.versions[-1] if version is None else version
        later = sorted(epoch for epoch in self._through if epoch > version // EPOCH)
        for epoch in later:
            through = self._through[epoch]
            if through < version:
                return True
            if through // EPOCH > version // EPOCH:
                break  # an epoch in between that nobody read: it may be gone since
        else:
            if self._epoch <= (later[-1] if later else version // EPOCH):
                return False  # no restore since, or every one brought it back
        return self._stores.written.get((self._session, save.question), -1) < version

    def number(self, save: Save) -> str:
        """Return the promise that its loss breaks."""
        if self.wiped(save):
            return "I8"
        killed = any(fault.unit == "redis" and fault.until_ms >= save.sent_ms for fault in self._faults)
        return "I9" if killed else "I1"

    def history_of(self, save: Save) -> str:
        """Return the faults since a save, as the end of a sentence."""
        since = [fault.shown for fault in self._faults if fault.until_ms >= save.sent_ms]
        return f"; since then: {', '.join(since[:6])}" if since else ""


def _in_life(history: History, calls: Sequence[Call]) -> Sequence[Fault]:
    """Return the faults between a session's first call and the answer to its submit, after which it is safe."""
    if not calls:
        return ()
    submits = [call.received_ms or 0.0 for call in calls if call.rpc == "SubmitSession" and call.good]
    safe = min(submits, default=float("inf"))
    return [fault for fault in history.faults if fault.until_ms >= calls[0].sent_ms and fault.at_ms <= safe]
