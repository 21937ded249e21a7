"""Sealing: makes of a paper what anybody may have and nobody can read without its key (docs/sealed-papers.md)."""

import gzip
import json
import os
from base64 import urlsafe_b64encode

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from servers.messages import paper_message
from servers.serving.proto_json import to_json
from stores.catalog import QuestionText
from stores.exam_records import ExamFile
from stores.exams import Sealed

NONCE_BYTES = 12


def seal(file: ExamFile, version: int) -> Sealed:
    """Seal one version of a file's paper with a key of its own.

    A line that says what it is, which is authenticated too, then AES-256-GCM of the gzipped JSON that GetPaper answers. A key
    seals one text, once, so that its nonce is used once whatever it is.
    """
    key, nonce, key_id = AESGCM.generate_key(256), os.urandom(NONCE_BYTES), urlsafe_b64encode(os.urandom(12)).decode()
    about = {"format": "finalbell-sealed-paper/1", "examId": file.exam.id, "version": version, "keyId": key_id}
    line = json.dumps(about | {"nonce": urlsafe_b64encode(nonce).decode()}, separators=(",", ":")).encode() + b"\n"
    paper = gzip.compress(to_json(paper_message(file.exam.id, version, _texts(file))), mtime=0)
    return Sealed(key_id, key, line + AESGCM(key).encrypt(nonce, paper, line))


def _texts(file: ExamFile) -> list[QuestionText]:
    """Return a file's questions as students read them."""
    return [
        QuestionText(
            id=q.id,
            type=q.type,
            stem=q.stem,
            passage=q.passage,
            topic=q.topic,
            points=q.points,
            options=tuple((option.id, option.text) for option in q.options),
            rubric=tuple((c.criterion, c.description, c.max_points) for c in q.rubric),
        )
        for q in file.questions
    ]
