"""`python -m servers.integrity.comparing BYTES SECONDS`: compares one exam's answers in a process of its own, which stands back for
the CPU and has so much memory and time, whatever comes.

Standard input: a line of JSON (`students`, `items` as lists of right codes, `places` as pairs of what Item has, `same` as items
with what each of their codes counts as, `groupings`, `shown`, `everybody`, `fdr`, `strongest`), then the matrix of answers
(students x items, 2 bytes each), then each grouping (4 bytes a student), in this machine's order, and where `shown` has a
shuffled paper's `version` and `questions` the sessions' ids (16 bytes each), which say in what order. Standard output: JSON, with
students by their numbers.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from dataclasses import asdict
from typing import Any
from uuid import UUID

FAR_BACK = 15
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Read, compare, write."""
    _end_with_the_service()
    most_bytes, most_seconds = int(sys.argv[1]), int(sys.argv[2])
    for limit, most in ((resource.RLIMIT_AS, most_bytes), (resource.RLIMIT_CPU, most_seconds)):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(FAR_BACK)
    sys.stdout.write(json.dumps(compared(sys.stdin.buffer.read())))


def _end_with_the_service() -> None:
    """Have the kernel end this process when the service is killed: nobody would hear what it finds, and another run may begin."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def compared(data: bytes) -> dict[str, Any]:
    """Return what came of one comparison."""
    import numpy as np  # loaded under the limits

    from servers.integrity.similarity import Exam, Grouping, Item, analyse
    from servers.orders import questions_shown

    line, _, rest = data.partition(b"\n")
    head = json.loads(line)
    items = [
        Item(str(at), frozenset(right), dict(places))
        for at, (right, places) in enumerate(zip(head["items"], head["places"], strict=True))
    ]
    students = head["students"]
    answers = np.frombuffer(rest, np.int16, students * len(items)).reshape(students, len(items)).copy()
    for at, codes in head["same"]:
        answers[:, at] = np.array(codes, np.int16)[answers[:, at]]
    groupings = tuple(
        Grouping(str(at), np.frombuffer(rest, np.int32, students, answers.nbytes + at * 4 * students).copy())
        for at in range(head["groupings"])
    )
    shown = None
    if head["shown"]:
        questions = [(question.encode(), at) for at, question in enumerate(head["shown"]["questions"])]
        sessions = rest[answers.nbytes + head["groupings"] * 4 * students :]
        shown = np.empty(answers.shape, np.int16)
        for at in range(students):
            session = UUID(bytes=sessions[16 * at : 16 * at + 16])
            shown[at] = questions_shown(questions, session, head["shown"]["version"])
    exam = Exam(tuple(map(str, range(students))), tuple(items), answers, groupings, shown)
    return asdict(analyse(exam, fdr=head["fdr"], everybody=head["everybody"], strongest=head["strongest"]))


if __name__ == "__main__":
    main()
