"""How a process dies where a fault test wants it to."""

import os
import signal


def crash(step: str, chosen: str) -> None:
    """Kill this process at a chosen step, as kill -9 would; for fault tests, by the setting `crash_at`."""
    if step == chosen:
        os.kill(os.getpid(), signal.SIGKILL)
