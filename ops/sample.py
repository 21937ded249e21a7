"""The sample exam that the project ships."""

from pathlib import Path

SAMPLE = Path(__file__).parent / "sample_exam.json"
