"""Holds the English and the Spanish pages together: same headings, code, numbers and links.

    python tests/upkeep/parity.py            print every difference; exit 1 if there is one
    python tests/upkeep/parity.py --stamp    a translation is up to date: rewrite its first line

Each X.es.md starts with a stamp, the hash of the X.md it was translated from, so that it goes stale
in sight. Leaves out: whether the Spanish is good; links in HTML or by reference; _italic_ headings.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import unicodedata
from collections import Counter
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("lab/*", "theory/*", "solutions/*", "src/minituner/*", "autograder/*")
PAGES = ("README*", *FOLDERS, "experiments/*/*notes*", "experiments/*/README*")
BOTH = "notes.md"  # so ends a page that speaks both languages at once; a twin is welcome
OUTPUT = {"text", "console"}  # fences with words of their own in each language
FENCE = re.compile(r"^ *(`{3,}|~{3,}) *([^`\n]*?) *\n(.*?)(?:^ *\1[`~]* *$|\Z)", re.M | re.S)
HEADING = re.compile(r"^ {0,3}(#{1,6}) +(.*?)(?: +#+)? *$", re.M)
CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(?:(?!\n\n).)+?(?<!`)\1(?!`)", re.S)
LINK = re.compile(r"\]\(<?([^)\s>]+)>?[^)]*\)|(https?://[^\s)>\]`]*[^\s)>\]`.,;:])")
# 36 864, 0.124, 1e-5, 20 %; not the digits of a name (fc1, float64).
NUMBER = re.compile(r"(?<!\w)(?:\d{1,3}(?: \d{3})+(?!\d)|\d+)(?:\.\d+)*(?:e[-+]?\d+)?(?: ?%)?")


class Page(NamedTuple):
    """A Markdown page taken apart; prose is what stands outside fences and comments."""

    headings: list[tuple[str, str]]  # ("##", title)
    fences: list[tuple[str, str, str]]  # (bar, info string, body)
    prose: str


def read(path: Path) -> Page:
    text = path.read_text(encoding="utf-8")
    prose = re.sub(r"<!--.*?-->", "", FENCE.sub("", text), flags=re.S)
    return Page(HEADING.findall(prose), FENCE.findall(text), prose)


def numbers(text: str) -> Counter[str]:
    """How often each number stands in text, whatever the kind of space within it."""
    text = re.sub("([⁻⁰¹²³⁴-⁹]+)", r"^\1", text).replace("\\,", " ").replace("\\%", "%")
    text = unicodedata.normalize("NFKC", text).replace("−", "-")
    return Counter(found.replace(" %", "%") for found in NUMBER.findall(text))


def links(page: Page) -> list[str]:
    """Every link's target, in order; none from inline code."""
    return ["".join(groups) for groups in LINK.findall(CODE_SPAN.sub("", page.prose))]


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def twin(en: Path) -> Path:
    return en.with_suffix(".es.md")


def source(page: Path) -> Path:
    return page.with_name(page.name.replace(".es.md", ".md"))


def pages() -> list[Path]:
    """Every page that learners read, and the other ones at the root: their links are checked."""
    return sorted({page for pattern in ("*", *PAGES) for page in ROOT.glob(f"{pattern}.md")})


def pairs() -> list[tuple[Path, Path]]:
    """Every bilingual page as (English, Spanish); one side of a pair may be missing."""
    english = {source(page) for pattern in PAGES for page in ROOT.glob(f"{pattern}.md")}
    both = [(en, twin(en)) for en in sorted(english)]
    return [(en, es) for en, es in both if es.is_file() or not en.name.endswith(BOTH)]


def missing() -> list[str]:
    """The pages that lack their other language."""
    lost = [(a, b) for en, es in pairs() for a, b in ((en, es), (es, en)) if not a.is_file()]
    return [f"{shown(page)}: missing; it is the twin of {shown(other)}" for page, other in lost]


def _headings(en: Page, es: Page) -> list[str]:
    for i, (a, b) in enumerate(zip_longest(en.headings, es.headings, fillvalue=("", "none")), 1):
        if a[0] != b[0]:  # the first only: all later ones are shifted
            return [f"heading {i}: {' '.join(b).strip()!r}, in English {' '.join(a).strip()!r}"]
    return []


def _fences(en: Page, es: Page) -> list[str]:
    if len(en.fences) != len(es.fences):
        return [f"{len(es.fences)} code blocks, in English {len(en.fences)}"]
    lines = []
    blocks = zip(en.fences, es.fences, strict=True)
    for i, ((_, info, want), (_, other, got)) in enumerate(blocks, 1):
        if info != other:
            lines.append(f"code block {i}: marked {other!r}, in English {info!r}")
        elif info.partition(" ")[0] in OUTPUT:
            lines += _counts(f"numbers in code block {i}", numbers(want), numbers(got))
        elif want != got:
            both = zip_longest(want.splitlines(), got.splitlines())
            a, b = next(((a, b) for a, b in both if a != b), (want, got))
            lines.append(f"code block {i}: {b!r}, in English {a!r}")
    return lines


def _counts(what: str, en: Counter[str], es: Counter[str]) -> list[str]:
    sides = (("only in English", en - es), ("only in Spanish", es - en))
    return [f"{what}: {side} {', '.join(rest.elements())}" for side, rest in sides if rest]


def differences(en: Path, es: Path) -> list[str]:
    """What differs besides words: headings, code blocks, numbers in prose, links."""
    a, b = read(en), read(es)
    prose = (numbers(LINK.sub("", page.prose)) for page in (a, b))
    bare = re.compile(r"\.es(?=\.md)|#.*")  # a relative link's language and anchor may differ
    targets = (Counter(x if ":" in x else bare.sub("", x) for x in links(p)) for p in (a, b))
    counts = _counts("numbers", *prose) + _counts("links", *targets)
    return [f"{shown(es)}: {line}" for line in _headings(a, b) + _fences(a, b) + counts]


def anchors(page: Page) -> set[str]:
    """GitHub's anchors: lower case, only letters, digits, - and _, then -1, -2 where repeated."""
    found, seen = set(), Counter[str]()
    for _, title in page.headings:
        text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", title).lower().replace(" ", "-")
        name = re.sub(r"[^\w-]|[¹²³¼-¾⁰⁴-⁹₀-₉]", "", text)  # \w has ², GitHub has not
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def _fault(page: Path, link: str) -> str | None:
    path, _, anchor = unquote(link).partition("#")
    file = (page.parent / path).resolve() if path else page
    if not (file.is_relative_to(ROOT) and file.exists()):
        return "no such file"
    if anchor and file.suffix == ".md" and anchor not in anchors(read(file)):
        return "no such heading"
    spanish = page.name.endswith(".es.md") and file not in (source(page), page)
    if spanish and file.suffix == ".md" and not file.name.endswith(BOTH) and twin(file).is_file():
        return f"in English, and there is {shown(twin(file))}"
    return None


def broken(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere, or to the wrong language."""
    faults = ((link, _fault(page, link)) for link in links(read(page)) if ":" not in link)
    return [f"{shown(page)}: link to {link}: {fault}" for link, fault in faults if fault]


def stamp(en: Path) -> str:
    text = en.read_text(encoding="utf-8")  # every end of line is \n here, on Windows too
    return f"<!-- source: {en.name} sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]} -->"


def stale(es: Path) -> str | None:
    """What is wrong with a translation's stamp, if anything."""
    en, first = source(es), es.read_text(encoding="utf-8").partition("\n")[0]
    if not re.fullmatch(rf"<!-- source: {re.escape(en.name)} sha256:[0-9a-f]{{16}} -->", first):
        return f"{shown(es)}: expected a stamp on its first line, got {first!r}; run make stamp"
    if first != stamp(en):
        return f"{shown(es)}: translated from an older {shown(en)}; update it, then run make stamp"
    return None


def restamp(es: Path) -> None:
    """Rewrite a translation's first line, or add it."""
    text = es.read_text(encoding="utf-8")
    rest = text.partition("\n")[2] if text.startswith("<!-- source:") else text
    es.write_text(f"{stamp(source(es))}\n{rest}", encoding="utf-8", newline="\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare the English and the Spanish pages.")
    parser.add_argument("--stamp", action="store_true", help="rewrite the stamps, and only them")
    options = parser.parse_args(arguments)
    whole = [(en, es) for en, es in pairs() if en.is_file() and es.is_file()]
    old = [(es, fault) for _, es in whole if (fault := stale(es))]
    if options.stamp:
        for es, _ in old:
            restamp(es)
            print(f"{shown(es)}: stamped")
        return 0
    found = missing() + [fault for _, fault in old]
    found += [line for en, es in whole for line in differences(en, es)]
    found += [line for page in pages() for line in broken(page)]
    print("\n".join(found) or "English and Spanish agree")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
