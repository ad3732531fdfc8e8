"""The given data: verbs and the rule, the split, made-up verbs, names, letters, and downloads.

No test needs a network: a download comes from a file: address or from a port where nobody listens.
"""

from __future__ import annotations

import random
import re
import socket
import tomllib
from pathlib import Path

import pytest

from minituner import corpora, verbs
from minituner.corpora import LETTERS, Corpus, CorpusError, digest
from minituner.verbs import Pair

ALL = verbs.regular() + verbs.irregular()
VOWELS = "aeiou"


# --- verbs ----------------------------------------------------------------------------------------


def test_there_are_about_300_regular_and_100_irregular_verbs() -> None:
    """The sizes that the pages promise, each verb once, a-z only, in alphabetical order."""
    assert len(verbs.regular()) == 342
    assert len(verbs.irregular()) == 112
    bases = [base for base, _ in ALL]
    assert len(set(bases)) == len(bases)
    assert all(re.fullmatch("[a-z]+", word) for pair in ALL for word in pair)
    for listed in (verbs.regular(), verbs.irregular()):
        assert list(listed) == sorted(listed)


def test_every_regular_past_is_what_the_rule_says() -> None:
    """walk walked, bake baked, cry cried, stop stopped: the list and the rule agree everywhere."""
    wrong = [
        (b, p, verbs.regular_past(b)) for b, p in verbs.regular() if p != verbs.regular_past(b)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("verb", "past"),
    [
        ("walk", "walked"),
        ("bake", "baked"),
        ("agree", "agreed"),
        ("tie", "tied"),
        ("cry", "cried"),
        ("play", "played"),
        ("obey", "obeyed"),
        ("copy", "copied"),
        ("stop", "stopped"),
        ("plan", "planned"),
        ("squat", "squatted"),
        ("quip", "quipped"),
        ("rain", "rained"),
        ("help", "helped"),
        ("add", "added"),
        ("aim", "aimed"),
        ("fix", "fixed"),
        ("show", "showed"),
        ("visit", "visited"),
        ("offer", "offered"),
        ("yap", "yapped"),
        ("go", "goed"),
        ("see", "seed"),
    ],
)
def test_the_rule_on_worked_examples(verb: str, past: str) -> None:
    """Each spelling of -ed once, and what over-regularising makes of go and see."""
    assert verbs.regular_past(verb) == past


@pytest.mark.parametrize("word", ["", "a", "Walk", "walk ", "naïve", "x-ray"])
def test_the_rule_refuses_what_is_no_word(word: str) -> None:
    """Letters a-z, two at least; the message names what came."""
    with pytest.raises(ValueError, match="verb"):
        verbs.regular_past(word)


def test_no_irregular_past_is_the_regular_one() -> None:
    """Otherwise a base that knows only the rule would get it right by accident."""
    assert [pair for pair in verbs.irregular() if pair[1] == verbs.regular_past(pair[0])] == []


def test_verbs_whose_past_needs_the_stress_or_a_country_are_left_out() -> None:
    """Two syllables ending in one vowel and one consonant: none of the list doubles it."""
    doubled = [
        base for base, past in verbs.regular() if past == base + base[-1] + "ed" and base[-1] != "e"
    ]
    assert doubled
    assert all(len(re.findall(f"[{VOWELS}]+", base.replace("qu", "q"))) == 1 for base in doubled)
    bases = {base for base, _ in ALL}
    text = Path(verbs.__file__).with_suffix(".toml").read_text(encoding="utf-8")
    assert not bases & set(str(tomllib.loads(text)["left_out"]).split())
    assert not bases & {
        "travel",
        "cancel",
        "admit",
        "prefer",
        "panic",
        "burn",
        "learn",
        "be",
        "hang",
    }


def test_negatives_are_the_irregular_verbs_with_the_rule() -> None:
    """go goed, take taked, run runned: one for each irregular verb, none of them right."""
    wrong = dict(verbs.over_regularised())
    assert (wrong["go"], wrong["take"], wrong["run"]) == ("goed", "taked", "runned")
    assert [base for base, _ in verbs.irregular()] == list(wrong)
    assert not set(verbs.over_regularised()) & set(verbs.irregular())


def test_the_split_has_no_verb_twice_and_forgets_none() -> None:
    """taught, watched and control share no verb; together they are the regular verbs."""
    parts = verbs.split()
    sizes = [len(parts.taught), len(parts.watched), len(parts.control)]
    assert sizes == [120, 90, 132]
    together: list[Pair] = [*parts.taught, *parts.watched, *parts.control]
    assert sorted(together) == list(verbs.regular())
    assert not {base for base, _ in together} & {base for base, _ in verbs.irregular()}


def test_the_split_is_the_same_every_time_and_grows_in_place() -> None:
    """Nothing random: a larger taught part holds the smaller one."""
    assert verbs.split() == verbs.split()
    assert set(verbs.split(60).taught) < set(verbs.split(120).taught)


@pytest.mark.parametrize("sizes", [(0, 90), (120, 0), (300, 42), (-1, 5)])
def test_the_split_refuses_an_empty_part(sizes: tuple[int, int]) -> None:
    """Each part keeps a verb, or a ValueError says what came."""
    with pytest.raises(ValueError, match="expected"):
        verbs.split(*sizes)


def test_made_up_verbs_follow_the_rule_and_are_no_listed_verb() -> None:
    """Each has its regular past; none is a verb of the list, nor one with another past."""
    made = verbs.made_up(2000, random.Random(3))
    known = {base for base, _ in ALL} | {"burn", "travel", "quit", "hang", "shine"}
    assert len(made) == 2000
    assert not {base for base, _ in made} & (known - {"travel"})
    assert all(past == verbs.regular_past(base) for base, past in made)
    assert all(re.fullmatch("[a-z]{2,10}", base) and set(base) & set("aeiouy") for base, _ in made)


def test_made_up_verbs_show_every_spelling_of_ed() -> None:
    """Doubling, a lone -d, -ied and plain -ed each come in at least one of thirty."""
    made = verbs.made_up(2000, random.Random(4))
    kinds = {
        "doubled": sum(past == base + base[-1] + "ed" for base, past in made),
        "d": sum(past == base + "d" for base, past in made),
        "ied": sum(past == base[:-1] + "ied" for base, past in made),
        "ed": sum(past == base + "ed" for base, past in made),
    }
    assert min(kinds.values()) >= 67, kinds


def test_made_up_verbs_are_the_same_for_the_same_seed() -> None:
    """The seed decides, and the state of the program's own generator does not."""
    first = verbs.made_up(50, random.Random(5))
    random.random()
    assert verbs.made_up(50, random.Random(5)) == first != verbs.made_up(50, random.Random(6))


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
