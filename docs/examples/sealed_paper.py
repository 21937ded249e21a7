"""Open a finalbell sealed paper: python sealed_paper.py EXAM VERSION KEY < sealed > paper.json; needs the package cryptography."""

import base64
import gzip
import json
import sys

from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def open_sealed_paper(sealed, exam, version, key):
    """Return the paper as GetPaper answers it. Raises an error for another paper, another key, or a single byte that differs."""
    line, newline, box = sealed.partition(b"\n")
    about = json.loads(line)
    if about["format"] != "finalbell-sealed-paper/1" or (about["examId"], about["version"]) != (exam, version):
        raise ValueError("this is not the sealed paper of that exam and version")
    nonce = base64.urlsafe_b64decode(about["nonce"])
    return json.loads(gzip.decompress(AESGCM(key).decrypt(nonce, box, line + newline)))


if __name__ == "__main__":
    exam, version, key = sys.argv[1:]
    print(json.dumps(open_sealed_paper(sys.stdin.buffer.read(), exam, int(version), base64.b64decode(key)), ensure_ascii=False))
