"""`python -m tests.chaos --seed N --minutes M`: random faults under load; exit code 1 when a promise broke."""

import argparse
import asyncio
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop

from tests.chaos.faults import Done, schedule
from tests.chaos.run import Outcome, own_stack, run


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="decides faults and load")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--saves", type=float, default=500, help="answer saves a second")
    parser.add_argument("--submits", type=float, default=50, help="submits a second; as many sessions start")
    parser.add_argument("--pauses", type=float, nargs=2, default=(3, 20), help="seconds between faults, at least and at most")
    parser.add_argument("--keep", type=Path, help="keep the record of all calls and the logs here")
    chosen = parser.parse_args(words)
    faults, live = schedule(chosen.seed, chosen.minutes * 60, tuple(chosen.pauses)), max(20, round(20 * chosen.submits))
    print(f"seed {chosen.seed}: {len(faults)} faults in {chosen.minutes:g} minutes", flush=True)
    kept = chosen.keep or Path(tempfile.mkdtemp(prefix=f"finalbell-chaos-{chosen.seed}-"))
    kept.mkdir(exist_ok=True)
    with own_stack() as stack:
        rates, history = (chosen.saves, chosen.submits), kept / "history.jsonl"
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                outcome = runner.run(run(stack, faults, chosen.seed, rates, live, history, lambda line: print(line, flush=True)))
        finally:
            shutil.copytree(stack.home / "logs", kept / "logs", dirs_exist_ok=True)
    report(outcome)
    for problem in outcome.problems:
        print(problem)
    print(f"the record of all calls and the logs are in {kept}")
    print(f"seed {chosen.seed}: {outcome.violations} violations")
    return 1 if outcome.violations or outcome.problems else 0


def report(outcome: Outcome) -> None:
    """Print what was called, how each kind of fault was survived, and the audit."""
    print("\ncalls, by how they were answered")
    for name, number in sorted(outcome.calls.items()):
        print(f"  {number:>8}  {name}")
    print(f"  {outcome.skipped:>8}  not even begun, since too many waited")
    print("\nfault                         alone: median    max   (runs)   all: max   allowed")
    kinds: dict[str, list[Done]] = {}
    for done in outcome.faults:
        kinds.setdefault(done.fault.shown, []).append(done)
    for shown, runs in sorted(kinds.items(), key=lambda item: item[1][0].fault.number):
        alone = [done.recovered or 0.0 for done in runs if done.alone]
        figures = f"{statistics.median(alone):>6.1f} {max(alone):>6.1f}" if alone else f"{'-':>6} {'-':>6}"
        every = max(done.recovered or 0.0 for done in runs)
        print(f"{shown:<36} {figures}   {len(alone):>3}/{len(runs):<3} {every:>8.1f} {runs[0].fault.within:>9g}")
    print(f"\ndrained in {outcome.drained:.1f} s\n")
    for line in outcome.lines:
        print(line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
