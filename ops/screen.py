"""What a person sees when the stack is ready: lines that work when pasted."""

import secrets
import shlex
import shutil
import sys
from pathlib import Path

from ops.home import Home
from ops.keys import mint


def screen(home: Home, stop: str = "") -> str:
    """Return the screen: gateway, a token, an exam in three curl lines, one grpcurl line, where the logs are.

    The student is a new one every time, who has all attempts left. `stop` is what ends the stack besides 'finalbell down'.
    """
    gateway = str((home.stack() or {}).get("gateway", ""))
    student = f"student-{secrets.token_hex(2)}"
    option = "" if home.path == Path(".finalbell").absolute() else f" --home {_shown(home.path)}"
    finalbell = _shown(Path(sys.executable).with_name("finalbell"))
    token, host = mint(home.path, student=student, cohorts=("demo",)), gateway.removeprefix("http://")
    me = '-H "Authorization: Bearer $TOKEN"'
    save, sent = '-H "Idempotency-Key: first-save"', '-H "Idempotency-Key: submit-1"'
    cut = "head -c 600; echo"
    return f"""
finalbell is ready at {gateway}

Sit the sample exam as {student}: start; save an answer; submit and see score, review and rank.

export API={gateway}/api/v1
export TOKEN={token}

SESSION=$(curl -s $API/exams/sample/sessions {me} -d '{{}}' | cut -d'"' -f4); echo $SESSION
curl -sw '\\n' -X PUT $API/sessions/$SESSION/answers {me} {save} -d '{{"questionId":"q1","choice":"B"}}'
curl -sw '\\n' $API/sessions/$SESSION/submit {me} {sent} -d '{{}}'; sleep 1; curl -s $API/sessions/$SESSION/result {me} | {cut}

The board, over gRPC on the same port:

{_grpcurl()} -plaintext {me} -d '{{"exam_id":"sample","around":"me"}}' {host} finalbell.v1.LeaderboardService/GetLeaderboard

A lecture with captions, in a browser:

{gateway}/lecture/sample#token={token}

Another token: {finalbell} token --student bob{option}
What runs:     {finalbell} status{option}
Logs:          {_shown(home.path)}/logs
Stop:          {f"{stop} here, or " if stop else ""}{finalbell} down{option}
"""


def _grpcurl() -> str:
    """Return where grpcurl is; 'make tools' puts one into .tools where the machine has none."""
    ours = Path(".tools/bin/grpcurl")
    return str(ours) if shutil.which("grpcurl") is None and ours.exists() else "grpcurl"


def _shown(path: Path) -> str:
    """Return a path as short as it can be typed from here."""
    path = path.absolute()
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))
