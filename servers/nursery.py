"""`python -m servers.nursery`: has everything loaded and starts units by forking, since each of them would load for a second.

It serves whoever has the other end of its standard input, a socket that keeps packets apart. A packet asks for one unit: a JSON
object as in `Wish`, and with it the file that the unit's output goes to. The answer is the unit's pid. Its parent is not the
nursery but whoever asked, who has to be a subreaper until the answer is there. When the other end is closed, the nursery ends.
"""

import ctypes
import gc
import json
import os
import resource
import socket
import sys
import time
from typing import TypedDict

from servers.__main__ import main as serve

MOST_BYTES = 65_536
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15


class Wish(TypedDict):
    """One unit: what else is in its environment, how far it stands back for the CPU, how much data it may have (0: as much as there
    is), and the signal that it gets when its parent dies."""

    unit: str
    environment: dict[str, str]
    niceness: int
    memory_bytes: int
    orphan_signal: int


def main() -> None:
    asker = socket.socket(fileno=0)
    gc.collect()
    gc.freeze()  # a collection would write to pages that all units share
    while True:
        packet, files, _, _ = socket.recv_fds(asker, MOST_BYTES, 1)
        if not packet:
            return
        if os.fork() == 0:
            _beget(asker, json.loads(packet), files[0])
        for file in files:
            os.close(file)
        os.wait()


def _beget(asker: socket.socket, wish: Wish, output: int) -> None:
    """Fork once more and end, so that the unit is the asker's child."""
    between = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == between:
        time.sleep(0.0005)
    parent = os.getppid()
    asker.send(str(os.getpid()).encode())
    asker.detach()  # its number is that of the standard input
    os.setpgid(0, 0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    os.nice(wish["niceness"])
    if wish["memory_bytes"]:
        resource.setrlimit(resource.RLIMIT_DATA, (wish["memory_bytes"], wish["memory_bytes"]))
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_NAME, wish["unit"].encode())  # for `top` and `ps -o comm`
    prctl(PR_SET_PDEATHSIG, wish["orphan_signal"])
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    os.environ.update(wish["environment"])
    sys.argv = ["servers", wish["unit"]]
    serve()
    sys.exit()


if __name__ == "__main__":
    main()
