"""The given data but for verbs: letters as ids, names, and downloads.

No test needs a network: a download comes from a file: address or from a port where nobody listens.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from minituner import corpora
from minituner.corpora import LETTERS, Corpus, CorpusError, digest

# --- letters and names ----------------------------------------------------------------------------


def test_letters_go_to_ids_and_back() -> None:
    """29 ids: END, ASK, a to z and padding, which decodes to nothing."""
    assert (LETTERS.size, LETTERS.pad_id) == (29, 28)
    ids = LETTERS.encode("go>went\n")
    assert ids[2:4] == [1, 2 + ord("w") - ord("a")]
    assert LETTERS.decode([*ids, LETTERS.pad_id]) == "go>went\n"
    assert LETTERS.upto_end(LETTERS.encode("went\nxy")) == "went"
    with pytest.raises(ValueError, match="É"):
        LETTERS.encode("É")


def test_pairs_become_prompts_and_answers() -> None:
    """go> asks for went and its end; a name is asked for by END alone."""
    ((prompt, answer),) = corpora.verb_ids([("go", "went")])
    assert (LETTERS.decode(prompt), LETTERS.decode(answer)) == ("go>", "went\n")
    ((prompt, answer),) = corpora.name_ids(["anna"])
    assert (LETTERS.decode(prompt), LETTERS.decode(answer)) == ("\n", "anna\n")


def test_built_in_names_fill_both_halves() -> None:
    """Over a hundred a half, each once, A–M apart from N–Z."""
    early, late = corpora.halves(corpora.names())
    assert min(len(early), len(late)) > 100
    assert sorted(early + late) == corpora.names()
    assert {name[0] for name in early} <= set("abcdefghijklm")
    assert {name[0] for name in late} <= set("nopqrstuvwxyz")


def test_names_from_a_file_are_lower_case_and_a_to_z(tmp_path: Path) -> None:
    """One a line, in any order; a name with another letter is an error that shows it."""
    file = tmp_path / "names.txt"
    file.write_text("Zoe\nanna\nAnna\n", encoding="utf-8")
    assert corpora.names(file) == ["anna", "zoe"]
    file.write_text("josé\n", encoding="utf-8")
    with pytest.raises(ValueError, match="josé"):
        corpora.names(file)


# --- downloads ------------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """A corpus that a folder publishes, to be kept in an empty folder."""
    monkeypatch.setenv(corpora.VARIABLE, str(tmp_path / "kept"))
    monkeypatch.setenv("MINITUNER_LANG", "en")
    file = tmp_path / "published" / "words.txt"
    file.parent.mkdir()
    file.write_bytes(b"anna\nzoe\n")
    return Corpus("words.txt", file.as_uri(), digest(file.read_bytes()), 9)


def source(corpus: Corpus) -> Path:
    return Path(corpus.url.removeprefix("file://"))


def test_a_download_is_kept_and_not_repeated(published: Corpus) -> None:
    """The second call reads the kept file, even when the publisher has gone."""
    assert corpora.text(published.get()) == "anna\nzoe\n"
    source(published).unlink()
    assert published.get() == published.path


def other(corpus: Corpus, content: bytes) -> None:
    source(corpus).write_bytes(content)


@pytest.mark.parametrize(
    "content",
    [b"", b"anna\n", b"anna\nzoe!", b"anna\nzoe\nmore"],
    ids=["none", "cut", "other", "long"],
)
def test_a_wrong_or_partial_download_is_never_kept(published: Corpus, content: bytes) -> None:
    """Empty, cut short, changed or longer: one line says so, and the folder stays empty."""
    other(published, content)
    with pytest.raises(CorpusError, match="sha256") as caught:
        published.get()
    assert "\n" not in str(caught.value)
    assert not published.path.parent.exists() or list(published.path.parent.iterdir()) == []


def test_a_broken_write_leaves_no_file_under_the_name(
    published: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted while it is put in place, the file is absent, and the next call succeeds."""
    with monkeypatch.context() as patched:

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        patched.setattr("minituner.corpora.os.replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            published.get()
    assert list(published.path.parent.iterdir()) == []
    assert published.get().is_file()


def test_a_kept_file_that_was_changed_is_refused(published: Corpus) -> None:
    """Its name is no proof: the checksum is compared on every call; it is not overwritten."""
    published.get().write_bytes(b"eve\n")
    with pytest.raises(CorpusError, match="delete it"):
        published.get()
    assert published.path.read_bytes() == b"eve\n"


def test_offline_one_line_says_where_to_put_the_file(published: Corpus) -> None:
    """Nobody answers: the message has the address and the place, and no traceback of urllib's."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        port = held.getsockname()[1]
        gone = Corpus("words.txt", f"http://127.0.0.1:{port}/words.txt", published.sha256, 9)
        with pytest.raises(CorpusError) as caught:
            gone.get()
    said = str(caught.value)
    assert "\n" not in said and gone.url in said and str(gone.path) in said
    assert caught.value.__cause__ is None


def test_a_file_put_there_by_hand_is_taken(published: Corpus) -> None:
    """What the offline message advises works."""
    content = source(published).read_bytes()
    source(published).unlink()
    published.path.parent.mkdir(parents=True)
    published.path.write_bytes(content)
    assert published.get() == published.path


def test_the_two_published_files_are_named_by_checksum() -> None:
    """64 hexadecimal digits, https, a size."""
    for corpus in (corpora.NAMES, corpora.SHAKESPEARE):
        assert re.fullmatch("[0-9a-f]{64}", corpus.sha256)
        assert corpus.url.startswith("https://")
        assert corpus.bytes > 200_000
