"""The texts: what is trained on, what is held out, and a control of another kind.

Source: corpora.py for Tiny Shakespeare; control.txt was written for this project, so no model can
have read it. Leaves out: tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minituner.corpora import SHAKESPEARE, digest, text

CONTROL = Path(__file__).with_name("control.txt")
SHARE = 0.9  # of the text that is trained on; the rest is held out
PROMPTS = ("ROMEO:\n", "To be or not to be", "The next train to the city")


@dataclass(frozen=True)
class Texts:
    """Three texts, and the sha256 of the file that the first two come from."""

    trained: str
    held_out: str
    control: str
    sha256: str

    @property
    def name(self) -> str:
        return "Tiny Shakespeare" if self.sha256 == SHAKESPEARE.sha256 else self.sha256[:12]


def texts(path: Path | None = None) -> Texts:
    """Tiny Shakespeare, downloaded on the first call, or the text in path.

    Raises:
        CorpusError: no network, and it is not there.
        OSError, UnicodeDecodeError: path cannot be read, or is not UTF-8.
        ValueError: there is too little of it.
    """
    found = path or SHAKESPEARE.get()
    whole = text(found)
    trained, held_out = parted(whole)
    return Texts(trained, held_out, text(CONTROL), digest(found.read_bytes()))


def parted(whole: str) -> tuple[str, str]:
    """The first nine tenths and the rest, cut between two paragraphs where there are any.

    One cut and not many: the held-out scenes are later than all that was trained on.
    """
    near = int(SHARE * len(whole))
    cut = whole.find("\n\n", near) + 2
    cut = cut if 2 <= cut < len(whole) else near
    if not (whole[:cut].strip() and whole[cut:].strip()):
        raise ValueError(f"text: expected more than {len(whole)} characters")
    return whole[:cut], whole[cut:]
