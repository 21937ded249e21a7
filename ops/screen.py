"""What a person sees when the stack is ready: lines that work when pasted."""

import sys
from pathlib import Path

from ops.home import Home
from ops.keys import mint

STUDENT = "alice"


def screen(home: Home) -> str:
    """Return the screen: gateway, a token, the exam in three curl lines, one grpcurl line, where the logs are."""
    stack = home.stack() or {}
    gateway = str(stack.get("gateway", ""))
    token = mint(home.path, student=STUDENT, cohorts=("demo",))
    finalbell = _shown(Path(sys.executable).with_name("finalbell"))
    option = "" if home.path == Path(".finalbell").absolute() else f" --home {_shown(home.path)}"
    return f"""
finalbell is ready at {gateway}

A student's token (holds for 3 hours; more: {finalbell} token --student bob{option}):

export TOKEN={token}

Sit the sample exam: start, save an answer, submit and see the result:

SESSION=$(curl -s -X POST {gateway}/api/v1/exams/sample/sessions -H "Authorization: Bearer $TOKEN" -d '{{}}' | tee /dev/stderr | grep -o '"sessionId":"[^"]*' | cut -d'"' -f4)
curl -s -X PUT {gateway}/api/v1/sessions/$SESSION/answers -H "Authorization: Bearer $TOKEN" -H "Idempotency-Key: $(date +%s%N)" -d '{{"questionId":"q1","choice":"B"}}'
curl -s -X POST {gateway}/api/v1/sessions/$SESSION/submit -H "Authorization: Bearer $TOKEN" -H "Idempotency-Key: $(date +%s%N)" -d '{{}}' && sleep 1 && curl -s {gateway}/api/v1/sessions/$SESSION/result -H "Authorization: Bearer $TOKEN"

The same server over gRPC:

grpcurl -plaintext -H "Authorization: Bearer $TOKEN" -d '{{"exam_id":"sample"}}' {gateway.removeprefix("http://")} finalbell.v1.LeaderboardService/GetLeaderboard

Logs: {_shown(home.path)}/logs   What runs: {finalbell} status{option}   Stop: Ctrl-C or {finalbell} down{option}
"""


def _shown(path: Path) -> str:
    """Return a path as short as it can be typed from here."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
