"""Many submissions: one result file each, resumable at any moment, and the instructor's page.

What is graded already, by the same grader and of the same bytes, is not graded again; identical
submissions are graded once. Memory stays flat: a verdict is written as it comes, and forgotten.
Leaves out: workers (engines.py, crew.py), what a result is worth (cache.py), the page (page.py).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from minituner.grading import cache, crew, engines, page
from minituner.grading.cache import Asked, CohortError, Reader, Result, Source, Store, whole
from minituner.grading.intake import shown
from minituner.grading.registry import Lab
from minituner.words import language, say

Heard = Callable[[int, int, int], None]  # done, all, errors of ours
STARTS = 3  # examiners in a row that did not start: then nothing will
NAMED = 10  # of the skipped, on the terminal; the summary has all


@dataclass(frozen=True)
class CohortResult:
    """What stands after a run; the verdicts themselves lie in `out`."""

    out: Path
    total: int  # submissions of this shard
    graded: int = 0  # in this run
    reused: int = 0  # already there, or the same bytes as another submission
    errors: int = 0  # faults of ours
    missing: int = 0  # without a verdict yet
    skipped: tuple[str, ...] = ()  # children that are no submission

    @property
    def exit_code(self) -> int:
        """0 when every submission has a verdict, whatever its score; else 2."""
        return 2 if self.errors or self.missing else 0

    def __str__(self) -> str:
        lines = [
            say(
                "{total} submissions: {graded} graded now, {reused} reused, "
                "{errors} errors of ours, {missing} missing; see {path}",
                total=self.total,
                graded=self.graded,
                reused=self.reused,
                errors=self.errors,
                missing=self.missing,
                path=self.out,
            )
        ]
        if self.skipped:
            lines.append(
                say(
                    "not submissions (expected folders and .py files, no links): {names}",
                    names=", ".join(
                        (*self.skipped[:NAMED], *(["…"] if self.skipped[NAMED:] else []))
                    ),
                )
            )
        return "\n".join(lines)


@dataclass
class _Plan:
    """Which submissions need a grade; those with equal bytes stand together."""

    sources: dict[str, Source] = field(default_factory=dict)
    waiting: dict[str, list[str]] = field(default_factory=dict)  # source digest -> names
    answered: dict[str, str] = field(default_factory=dict)  # source digest -> a name with a result


def run_cohort(
    lab: Lab,
    folder: Path,
    out: Path,
    *,
    jobs: int,
    shard: tuple[int, int] = (1, 1),
    engine: str = "loky",
    seed: int | None = None,
    require: str = "practice",
    fresh: bool = False,
    progress: Heard = lambda done, total, errors: None,
    make_examiner: Callable[[Lab, str], crew.Session] = crew.examiner,
    reader: Reader = cache.read,
) -> CohortResult:
    """Grade what needs grading, then (unless this is one shard of several) write the summary.

    Args:
        make_examiner: (lab, require) -> a context manager with examine(); a module's own function
            or class, because workers import it by name.
        shard: (i, n), i from 1 to n: only the submissions whose name falls to i.
        fresh: grade everything again, whatever results are there.

    Raises:
        CohortError: nothing can be graded; what was written before stays.
    """
    engines.check_engine(engine)
    if not 1 <= shard[0] <= shard[1]:
        got = "{}/{}".format(*shard)
        raise CohortError(say("--shard: expected i/n with i from 1 to n, got {got}", got=got))
    if jobs < 1:
        raise CohortError(say("--jobs: expected at least 1, got {got}", got=jobs))
    everything, skipped = cache.children(folder, out)
    names = [name for name in everything if cache.in_shard(name, shard)]
    store = Store(out, cache.grader_version(lab))
    asked = Asked(lab.id, require, seed, language())
    order = crew.Order(
        uuid.uuid4().hex, os.getpid(), lab, folder.resolve(), asked, make_examiner, reader
    )
    with store.alone(shard):
        plan = _plan(store, order, names, fresh)
        run = _Run(store, order, plan, progress)
        run.copy_answered()
        if plan.waiting:
            run.grade(engine, jobs)
    done = CohortResult(
        out, len(names), run.graded, len(names) - run.graded, run.errors, 0, tuple(skipped)
    )
    if shard != (1, 1):
        return done
    return replace(done, missing=_summarise(store, lab, folder, reader).missing)


def _plan(store: Store, order: crew.Order, names: list[str], fresh: bool) -> _Plan:
    plan = _Plan()
    for name in names:
        plan.sources[name] = source = order.reader(order.lab, order.folder / name)
        result = None if fresh else store.load(name)
        if result is not None and store.answers(result, source, order.asked):
            plan.answered[source.digest] = name
        else:
            plan.waiting.setdefault(source.digest, []).append(name)
    return plan


class _Run:
    """One run at work: hands out, writes down, counts."""

    def __init__(self, store: Store, order: crew.Order, plan: _Plan, progress: Heard) -> None:
        self.store, self.order, self.plan, self.progress = store, order, plan, progress
        self.graded = self.errors = 0
        self.unstarted = STARTS - 1  # until one has started, the first that does not is enough
        self.done = len(plan.sources) - sum(map(len, plan.waiting.values()))

    def copy_answered(self) -> None:
        """The results of equal bytes that are there already, under the other names too."""
        for digest in self.plan.waiting.keys() & self.plan.answered.keys():
            result = self.store.load(self.plan.answered[digest])
            if result is not None:
                for name in self.plan.waiting.pop(digest):
                    self.save(name, self.plan.sources[name], result["report"])

    def save(self, name: str, source: Source, report: Result | None, error: str = "") -> None:
        self.store.save(name, source, self.order.asked, report, error)
        self.done += 1
        self.errors += bool(error)
        self.progress(self.done, len(self.plan.sources), self.errors)

    def grade(self, engine: str, jobs: int) -> None:
        """All that waits: one of each equal group, the others copied from it."""
        self.progress(self.done, len(self.plan.sources), 0)
        try:
            while self.plan.waiting:
                heads = [names[0] for names in self.plan.waiting.values()]
                try:
                    for graded in engines.stream(self.order, heads, engine=engine, jobs=jobs):
                        self.heard(graded)
                except engines.Lost:
                    self.one_by_one(engine, jobs)
        finally:
            engines.dismiss(engine)

    def one_by_one(self, engine: str, jobs: int) -> None:
        """After a worker died: what it may have had under way, each alone, to catch the one."""
        for names in list(self.plan.waiting.values())[: 2 * jobs]:
            name = names[0]
            try:
                for graded in engines.stream(self.order, [name], engine=engine, jobs=max(2, jobs)):
                    self.heard(graded)
            except engines.Lost as error:
                source = self.plan.sources[name]
                self.heard(crew.Graded(name, source, None, str(error)))

    def heard(self, graded: crew.Graded) -> None:
        """Write one verdict down, and the same for whoever handed in the same bytes."""
        self.unstarted = 0 if graded.started else self.unstarted + 1
        if self.unstarted >= STARTS:
            raise CohortError(say("the exam does not start: {why}", why=graded.error))
        digest = self.plan.sources[graded.name].digest
        same = self.plan.waiting.pop(digest)
        same.remove(graded.name)
        self.graded += 1
        self.save(graded.name, graded.source, graded.report, graded.error)
        if graded.source.digest != digest:  # changed since it was listed: the others were not
            if same:
                self.plan.waiting[digest] = same
            return
        for name in same:
            self.save(name, self.plan.sources[name], graded.report, graded.error)


def merge(lab: Lab, folder: Path, out: Path, *, reader: Reader = cache.read) -> CohortResult:
    """Summary, scores and page from the results that are there; grades nothing.

    A submission whose result is absent, or of other bytes or another grader, counts as missing.
    """
    return _summarise(Store(out, cache.grader_version(lab)), lab, folder, reader)


def _summarise(store: Store, lab: Lab, folder: Path, reader: Reader) -> CohortResult:
    """The store knows which grader counts: after a run, the one that the run began with."""
    out = store.out
    everything, skipped = cache.children(folder, out)
    present, missing, errors = [], [], []
    for name in everything:
        result = store.load(name)
        if result is None or not store.fresh(result, reader(lab, folder / name)):
            missing.append(shown(name))
            continue
        present.append(name)
        errors += [shown(name)] if result["error"] else []

    def results() -> Iterator[Result]:
        return (found for name in present if (found := store.load(name)) is not None)

    out.mkdir(parents=True, exist_ok=True)
    figures = page.write_page(results(), lab, out / "report.html", missing=len(missing))
    page.write_scores(results(), lab, out / "scores.csv")
    summary = figures.to_json() | {"missing": missing, "errors": errors, "skipped": skipped}
    with whole(out / "summary.json") as file:
        file.write(cache.to_bytes(summary))
    counts = (len(present), len(errors), len(missing))
    return CohortResult(out, len(everything), 0, *counts, tuple(skipped))
