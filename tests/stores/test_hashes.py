"""What a submit freezes is the canonical encoding, whatever stands in the answers."""

from hypothesis import given
from hypothesis import strategies as st

from stores.hashes import ANSWER_HEAD, frozen_answers
from stores.records import encode_answers

IDS = st.text("abcXYZ019-_", min_size=1, max_size=6)
PACKED = st.builds(str.__add__, st.sampled_from(["c:", "m:", "n:", "t:", "-:"]), st.text(st.characters(codec="utf-8"), max_size=12))
ODD = st.sampled_from(['t:"', "t:\\", "t:\n", "t:\x7f", 't:","q":"c:A', "-:"])


@given(st.dictionaries(IDS, PACKED | ODD, max_size=8))
def test_frozen_answers_are_encoded_as_their_canonical_form_says(answers: dict[str, str]) -> None:
    head = ANSWER_HEAD.pack(bytes(6), bytes(6), 1, 0)
    fields = {b"x": b"exam", **{f"a:{name}".encode(): head + packed.encode() for name, packed in answers.items()}}

    assert frozen_answers(fields) == encode_answers(answers)
