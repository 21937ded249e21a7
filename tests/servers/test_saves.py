"""The short look at a save: what it passes without asking protovalidate, protovalidate would have passed."""

import json
from uuid import uuid4

import protovalidate
from hypothesis import example, given
from hypothesis import strategies as st

from servers.errors import InvalidField
from servers.session.saves import read_save

SESSION = str(uuid4())
IDS = st.one_of(st.from_regex(r"[A-Za-z0-9_-]{1,32}", fullmatch=True), st.text(max_size=40), st.sampled_from(["A", "A\n", "", "é"]))
SEQUENCES = st.one_of(st.none(), st.integers(-2, 2), st.integers(2**32 - 2, 2**32 + 2))
SESSIONS = st.one_of(st.just(SESSION), st.just(SESSION.upper()), st.text("0123456789abcdef-", min_size=30, max_size=40))
KEYS = st.one_of(st.none(), st.text(max_size=70))


@given(SESSIONS, IDS, IDS, SEQUENCES, KEYS)
@example(SESSION, "q1", "A", None, None)
@example(SESSION, "q1\n", "A", 1, None)
@example(f"{SESSION}\n", "q1", "A", 1, None)
def test_what_the_short_look_passes_keeps_every_rule(
    session: str, question: str, choice: str, sequence: int | None, key: str | None
) -> None:
    fields = {"questionId": question, "choice": choice, "clientSeq": sequence, "idempotencyKey": key}
    body = json.dumps({name: value for name, value in fields.items() if value is not None}).encode()

    try:
        request, surely = read_save(session, body)
    except InvalidField:
        return

    assert not surely or protovalidate.collect_violations(request) == []


def test_what_apps_send_passes_the_short_look() -> None:
    _, surely = read_save(SESSION, b'{"questionId":"q1","choice":"A","clientSeq":7}')

    assert surely
