"""What schemathesis makes of `gen/openapi.json`, right and wrong: no 5xx, answers as documented, and a refusal changes nothing."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from tests.bad_input.world import World, changed
from tests.stack import ROOT

EACH = 10
MARKED_SECONDS = 1.1
LATER = ("/submit", ":regrade")
"""What does something more a moment after it was answered: a submit is noted in PostgreSQL, a regrade is done."""

STREAMS = ":watch"
"""What ends an operation's path that answers for an hour: tests/flows/test_results.py watches it."""

FOUND = schemathesis.openapi.from_path(ROOT / "gen" / "openapi.json").get_all_operations()
OPERATIONS = [one for one in (found.ok() for found in FOUND) if not one.path.endswith(STREAMS)]
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
KNOWN: dict[str, list[Any]] = {
    "sessionId": ["live", "theirs", "paused", "waiting", "strict"],
    "examId": ["w-open", "w-strict", "w-held", "w-later"],
    "bankId": ["w-bank"],
    "questionId": ["p1", "p4", "q1"],
    "version": [1],
}
"""Ids that are there: with made-up ones alone nothing would get past the first look."""


@st.composite
def cases(draw: st.DrawFn, modes: Sequence[st.SearchStrategy[Any]], world: World) -> Any:
    """Draw a call, right or wrong, most often about something that is there."""
    case = draw(modes[draw(st.integers(0, len(modes) - 1))])
    for name, known in KNOWN.items():
        if name in (case.path_parameters or {}) and draw(st.integers(0, 3)):
            chosen = draw(st.sampled_from(known))
            case.path_parameters[name] = world.names.get(chosen, chosen)
    return case


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: f"{operation.method.upper()} {operation.path}")
def test_a_call_that_a_machine_made_up_is_answered_as_documented(world: World, operation: Any) -> None:
    """A student makes each call, then an admin: to make it up takes longer than to answer it."""
    modes = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]  # which takes long, so not for each call
    before = world.held.digest()

    @settings(
        max_examples=EACH,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases(modes, world))
    def answered(case: Any) -> None:
        nonlocal before
        for who in ("wally", "admin"):
            headers = {"idempotency-key": uuid.uuid4().hex, "authorization": f"Bearer {world.tokens[who]}"}
            response = case.call(base_url=world.stack.gateway, headers=headers, timeout=15)
            earlier, before = before, world.held.digest()
            if response.status_code >= 400:
                assert changed(earlier, before) == set()
            elif case.operation.path.endswith(LATER):
                time.sleep(2 * MARKED_SECONDS)
                before = world.held.digest()
            case.validate_response(response, checks=CHECKS)

    answered()
