"""Where a cohort's workers come from: joblib, with loky here or an existing Dask or Ray cluster.

One stream of verdicts, whatever stands behind it; a worker that dies is told apart from a verdict.
Leaves out: what a worker does (crew.py) and what is handed out (cohort.py).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec

from minituner.grading.cache import CohortError
from minituner.grading.crew import Graded, Order, desk, fault_line, grade_one, named
from minituner.words import one_of, say

ENGINES = {"loky": "joblib", "dask": "distributed", "ray": "ray"}  # engine -> package it needs


class Lost(Exception):
    """The engine broke: a worker process died with whatever was under way."""


def check_engine(engine: str) -> None:
    """
    Raises:
        CohortError: there is no such engine, or its package is not installed.
    """
    if engine not in ENGINES:
        raise CohortError(one_of("--engine", ENGINES, engine))
    for package in dict.fromkeys(("joblib", ENGINES[engine])):
        if find_spec(package) is None:
            raise CohortError(
                say(
                    "--engine {engine}: the package {package} is not installed; {cure}",
                    engine=engine,
                    package=package,
                    cure=f"pip install {package}",
                )
            )


def _cluster(engine: str) -> AbstractContextManager[object]:
    """The engine's own session: an existing cluster where its variable names one, else local."""
    if engine == "dask":
        from distributed import Client  # type: ignore[import-not-found,unused-ignore] # extra

        client: AbstractContextManager[object] = Client()  # DASK_SCHEDULER_ADDRESS
        return client
    if engine == "ray":
        import ray  # type: ignore[import-not-found,unused-ignore]  # extra
        from ray.util.joblib import register_ray  # type: ignore[import-not-found,unused-ignore]

        ray.init(ignore_reinit_error=True)  # RAY_ADDRESS
        register_ray()
    return nullcontext()


def stream(order: Order, names: Sequence[str], *, engine: str, jobs: int) -> Iterator[Graded]:
    """Verdicts as they come, in any order; at most 2 * jobs submissions are under way.

    Raises:
        Lost: a worker died. Names are handed out in order, so what it had under way is among the
            first 2 * jobs that have not come back.
    """
    from joblib import parallel_config  # type: ignore[import-untyped]  # joblib has no types

    with _cluster(engine), parallel_config(backend=engine, n_jobs=jobs):
        verdicts = _hand_out(order, names, engine, jobs)
        try:
            while True:
                try:
                    graded = next(verdicts)
                except StopIteration:
                    return
                except Exception as error:  # grade_one raises none: this is the engine's
                    raise Lost(fault_line(named(error))) from error
                yield graded
        finally:
            verdicts.close()


def _hand_out(
    order: Order, names: Sequence[str], engine: str, jobs: int
) -> Generator[Graded, None, None]:
    from joblib import Parallel, delayed

    calls = [delayed(grade_one)(order, name) for name in names]
    # Batches of one: no verdict waits for a slow neighbour's.
    if engine == "ray":  # its backend knows no generators: it gets a few at a time
        with Parallel(batch_size=1) as parallel:
            for start in range(0, len(calls), 2 * jobs):
                yield from parallel(calls[start : start + 2 * jobs])
    else:
        options = {"return_as": "generator_unordered", "pre_dispatch": "2*n_jobs"}
        yield from Parallel(batch_size=1, **options)(calls)


def dismiss(engine: str) -> None:
    """End this machine's workers, each with its examiner, and wait for them."""
    desk.close()
    if engine == "loky":
        from joblib.externals.loky import get_reusable_executor  # type: ignore[import-untyped]

        get_reusable_executor().shutdown(wait=True)
