"""The patches: what each breaks, and who is to catch it. Both stand in the lines above its diff."""

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent


@dataclass(frozen=True, slots=True)
class Patch:
    """One seeded bug."""

    file: Path
    breaks: str
    caught_by: tuple[str, ...]
    """Tests by their pytest id; with parameters only where one of them alone bites."""

    @property
    def name(self) -> str:
        """Its number and name."""
        return self.file.stem


def patches() -> list[Patch]:
    """Return all patches, by number."""
    return [_read(file) for file in sorted(FOLDER.glob("*.patch"))]


def _read(file: Path) -> Patch:
    head = file.read_text().split("diff --git", 1)[0]
    breaks = re.search(r"^Breaks: (.+)$", head, re.MULTILINE)
    tests = re.findall(r"^Caught-by: (.+)$", head, re.MULTILINE)
    if breaks is None or not tests:
        raise ValueError(f"{file.name} has to say 'Breaks: …' and 'Caught-by: …' above its diff")
    return Patch(file, breaks[1], tuple(tests))
