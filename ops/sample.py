"""What the project ships to begin with: an exam and a lecture."""

from pathlib import Path

SAMPLE = Path(__file__).parent / "sample_exam.json"
SAMPLE_LECTURE = Path(__file__).parent / "sample_lecture" / "lecture.json"
