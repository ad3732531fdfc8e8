"""What the labs train on: letters as numbers, names, and a text; verbs stand in verbs.py.

    names()                 the short list that is here, lower case
    names(NAMES.get())      makemore's 32 033 names: downloaded once, checked, kept

Sources: makemore's names.txt and char-rnn's tinyshakespeare/input.txt (public domain), both named
by their sha256; names.toml was written for this project. Nothing is downloaded unless asked for.
Leaves out: words as tokens; every character is a token.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import tomllib
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from minituner.verbs import Pair
from minituner.words import say

END, ASK = "\n", ">"  # a past tense or a name ends with END; a base form is asked about with ASK
VARIABLE = "MINITUNER_DATA"
SECONDS = 20.0  # without a byte, then a download is given up
Ids = tuple[list[int], list[int]]  # prompt, answer


class Alphabet:
    """Characters and their ids, in the order given; the id after the last one is for padding."""

    characters: str
    pad_id: int  # no character: decode leaves it out
    size: int  # ids in all, the padding's among them: a model's vocab_size

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = "".join(dict.fromkeys(characters))
        self.pad_id = len(self.characters)
        self.size = self.pad_id + 1

    def encode(self, text: str) -> list[int]:
        """One id a character.

        Raises:
            ValueError: text has a character that is not here.
        """
        unknown = sorted(set(text) - set(self.characters))
        if unknown:
            raise ValueError(f"text: expected only {self.characters!r}, got {''.join(unknown)!r}")
        return [self.characters.index(character) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without padding."""
        return "".join(self.characters[i] for i in ids if i != self.pad_id)

    def upto_end(self, ids: Sequence[int]) -> str:
        """The text of ids as far as the first END."""
        return self.decode(ids).partition(END)[0]


LETTERS = Alphabet(END + ASK + "abcdefghijklmnopqrstuvwxyz")  # verbs and names share it: 29 ids


def verb_ids(pairs: Iterable[Pair]) -> list[Ids]:
    """Each verb as a prompt and an answer: "go>" and "went\\n"."""
    return [(LETTERS.encode(base + ASK), LETTERS.encode(past + END)) for base, past in pairs]


def name_ids(names: Iterable[str]) -> list[Ids]:
    """Each name as a prompt and an answer: "\\n" and "anna\\n"; the prompt tells nothing."""
    return [(LETTERS.encode(END), LETTERS.encode(name + END)) for name in names]


class CorpusError(Exception):
    """A file is not there and cannot be had; the message says where to put it."""


@dataclass(frozen=True)
class Corpus:
    """A file that somebody else publishes, known by its checksum."""

    name: str
    url: str
    sha256: str
    bytes: int

    @property
    def path(self) -> Path:
        """Where it is kept: MINITUNER_DATA, else .minituner/data in the clone (git ignores it)."""
        own = Path(__file__).resolve().parents[2] / ".minituner" / "data"
        return Path(os.environ.get(VARIABLE) or own) / self.name

    def get(self) -> Path:
        """The file, downloaded on the first call; its checksum is compared on every call.

        A download becomes the file only when whole and right, so no part of one is ever mistaken
        for it.

        Raises:
            CorpusError: offline, or what is there or what came is another file.
        """
        if self.path.is_file():
            if digest(self.path.read_bytes()) == self.sha256:
                return self.path
            said = say("{path}: not the expected file (sha256 differs); delete it", path=self.path)
            raise CorpusError(said)
        try:
            with urllib.request.urlopen(self.url, timeout=SECONDS) as answer:
                data = answer.read(self.bytes + 1)
        except OSError as error:  # URLError, a time-out, a broken connection
            raise CorpusError(
                say(
                    "{name}: no download ({why}); get {url} elsewhere and put it at {path}",
                    name=self.name,
                    why=getattr(error, "reason", error),
                    url=self.url,
                    path=self.path,
                )
            ) from None
        if digest(data) != self.sha256:
            raise CorpusError(
                say(
                    "{name}: another file came from {url} (sha256 differs); nothing was kept",
                    name=self.name,
                    url=self.url,
                )
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.path.parent) as held:
            part = Path(held) / self.name
            part.write_bytes(data)
            os.replace(part, self.path)
        return self.path


NAMES = Corpus(
    "names.txt",
    "https://raw.githubusercontent.com/karpathy/makemore/master/names.txt",
    "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
    228_145,
)
SHAKESPEARE = Corpus(
    "tinyshakespeare.txt",
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    1_115_394,
)


def digest(data: bytes) -> str:
    """The sha256 of data, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def names(path: Path | None = None) -> list[str]:
    """First names in lower case, each once, in alphabetical order.

    Args:
        path: one name a line; None takes the short list that comes with the project.

    Raises:
        ValueError: a name with something else than a-z.
    """
    if path is None:
        short = Path(__file__).with_name("names.toml").read_text(encoding="utf-8")
        text = str(tomllib.loads(short)["names"])
    else:
        text = path.read_text(encoding="utf-8")
    found = sorted({name.lower() for name in text.split()})
    odd = [name for name in found if set(name) - set(LETTERS.characters[2:])]
    if odd:
        raise ValueError(f"names: expected only the letters a-z, got {odd[:3]}")
    return found


def halves(all_names: Iterable[str]) -> tuple[list[str], list[str]]:
    """The names that begin with A to M, and those with N to Z."""
    listed = list(all_names)
    return [name for name in listed if name < "n"], [name for name in listed if name >= "n"]


def text(path: Path) -> str:
    """A text to continue: SHAKESPEARE.get(), or any file of yours in UTF-8."""
    return path.read_text(encoding="utf-8")
