"""Model choice: one data set, one held-out part, a fit for each combination of options, and a comparison.

    components=3/   a run directory for each member, see `latentia.runs.directory`
    sweep.json      what was compared, and what came of it
    sweep.html      the same, to look at

Every member is fitted and evaluated in a process of its own, so that one that fails takes nothing else along. Nothing
is kept in memory between them: what came of a member is read from its directory, finished today or last week.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch

from latentia.data.files import alone, atomic_write
from latentia.errors import LatentiaError, OptionError, RunError
from latentia.measure.means import standard_error
from latentia.measure.measures import PLAIN, check_comparable
from latentia.model import EMModel
from latentia.progress import Bar
from latentia.report.comparison import REPORT, build_comparison
from latentia.runs.build import check_options
from latentia.runs.config import Config, default_out
from latentia.runs.directory import Run
from latentia.runs.files import read_metrics
from latentia.tensors import read_tensors

GROUPS = ("--model.", "--learner.", "--objective.")
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
RANGE = re.compile(rf"({NUMBER}):({NUMBER})(?::({NUMBER}))?", re.IGNORECASE)
OUTSIDE_BRACKETS = re.compile(r",(?![^\[(]*[\])])")
SLOW_TO_IMPORT = ["latentia.runs.directory", "numba", "torch.fx.experimental.symbolic_shapes"]
MOST = 1000
"""Members of a sweep: more are a slip of the keyboard."""


# ------------------------------------------------------------------------------------------------- what is asked for


def expand(words: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The words of the command that have one value, and the options that have several, with all of them."""
    plain: list[str] = []
    several: dict[str, list[str]] = {}
    left = deque(words)
    while left:
        word = left.popleft()
        name, given, text = word.partition("=")
        if not name.startswith(GROUPS) or not (given or left):
            plain.append(word)
            continue
        text = text if given else left.popleft()
        found = values(text)
        if found is None:
            plain += [name, text]
        else:
            several[name.removeprefix("--")] = found
    return plain, several


def values(text: str) -> list[str] | None:
    """What a:b or a:b:step (both ends are in) or a list with commas stands for; None where it is a single value.

    Raises:
        OptionError: a range that leads nowhere, or to more than `MOST` values.
    """
    parts = OUTSIDE_BRACKETS.split(text)
    if len(parts) == 1 and not RANGE.fullmatch(text):
        return None
    return list(dict.fromkeys(value for part in parts for value in _part(part.strip())))


def _part(text: str) -> list[str]:
    found = RANGE.fullmatch(text)
    if found is None:
        return [text]
    given = (found[1], found[2], found[3] or "1")
    if any(len(number) > 40 or not 1e-12 < abs(float(number)) < 1e15 for number in given if Decimal(number)):
        raise OptionError(f"{text[:80]} is no range of numbers that an option can have")
    first, last, step = map(Decimal, given)
    whole = first % 1 == last % 1 == 0
    if not (first <= last and step > 0 and (whole or found[3])):
        raise OptionError(f"{text} is no range: write first:last or first:last:step, such as 1:20 or 0.1:0.5:0.1")
    count = int((last - first) / step) + 1
    if count > MOST:
        raise OptionError(f"{text} has {count:,} values: at most {MOST:,} are fitted")
    return [format(first + i * step, "f") for i in range(count)]


class Member(NamedTuple):
    """One of the fits: the options that set it apart, its directory, and all that is asked for."""

    options: dict[str, str]
    path: Path
    config: Config

    @property
    def name(self) -> str:
        return self.path.name

    def open(self) -> Run:
        """Its run, old or new. Raises `RunError` where its directory holds another one."""
        if not (self.path / "model.safetensors").exists():
            return Run.create(self.path, self.config)
        run = Run.open(self.path)
        if not run.config.same_as(self.config):
            raise RunError(
                f"{self.path} holds a run that was asked for otherwise, or of data that have changed: choose another "
                "--out"
            )
        return run


def _name(options: dict[str, str]) -> str:
    """components=3: the name of a member, and of its directory."""
    short = {name: name.split(".")[-1] for name in options}
    doubled = len(set(short.values())) < len(short)
    words = ",".join(f"{name if doubled else short[name]}={value}" for name, value in options.items())
    return re.sub(r"[^\w.,=\[\]+-]", "_", words)


# ------------------------------------------------------------------------------------------------------- doing it


@dataclass
class Sweep:
    """Members that differ in their options alone: the data, the seed and so the held-out part are the same.

    Attributes:
        out: the directory of all.
        options: the names of the options in which they differ.
        command: the command that asked for it.
    """

    out: Path
    options: list[str]
    members: list[Member]
    command: str

    @classmethod
    def plan(
        cls,
        several: dict[str, list[str]],
        configure: Callable[[list[str]], Config],
        out: str | os.PathLike | None,
        command: str,
    ) -> Sweep:
        """All combinations of the options in `several`. Nothing is written yet.

        Args:
            configure: makes the config of a member from its own words, such as ["--model.components", "3"].

        Raises:
            OptionError: nothing to vary, too many combinations, or one that makes no sense.
        """
        if not several:
            raise OptionError(
                "nothing varies: give an option several values, such as --model.components 1:10 or "
                "--model.covariance full,diagonal"
            )
        combinations = list(product(*several.values()))
        if len(combinations) > MOST:
            raise OptionError(f"{len(combinations):,} combinations: at most {MOST:,} are fitted")
        members = []
        for chosen in combinations:
            options = dict(zip(several, chosen, strict=True))
            config = configure([word for name, value in options.items() for word in (f"--{name}", value)])
            check_options(config)
            config.fingerprint = members[0].config.fingerprint if members else config.data.fingerprint()
            out = Path(out) if out else _default_out(config)
            path = out / _name(options)
            config.command = f"{config.command} --out {path}"
            members.append(Member(options, path, config))
        assert isinstance(out, Path)  # there is a member
        return cls(out, list(several), members, command)

    def run(self, jobs: int | None = None, importance_samples: int = 1000, progress: bool = True) -> dict[str, Any]:
        """Fit and evaluate what is not finished, write sweep.json and sweep.html, and return what sweep.json holds.

        A member that fails has its "error" there, and the others have what came of them.

        Args:
            jobs: fits at a time, which share the cores between them; as many as there are cores where it is None.

        Raises:
            RunError: a member's directory holds something else, or another sweep is at work. Nothing is fitted then.
        """
        with _made(self.out), alone(self.out):
            return self._run(jobs, importance_samples, progress)

    def _run(self, jobs: int | None, importance_samples: int, progress: bool) -> dict[str, Any]:
        waiting = [member for member in self.members if not _finished(member.open(), importance_samples)]
        done = len(self.members) - len(waiting)
        with Bar("sweep", len(self.members), done, shown=progress) as bar:
            errors = _fit_each(waiting, importance_samples, jobs or _cores(), lambda ended: bar.show(done + ended))
        summary = self._summary(errors)
        atomic_write(self.out / "sweep.json", json.dumps(summary, indent=1).encode())
        _report_each(self.out, summary, {name for name in summary["best"].values() if name}, progress)
        return summary

    def _summary(self, errors: dict[str, str]) -> dict[str, Any]:
        config = self.members[0].config
        results = [_result(member, errors.get(member.name)) for member in self.members]
        good = [result for result in results if not result["error"]]
        _compare(good)
        first = good[0] if good else {}
        return {
            "model": config.model,
            "data": config.data.source,
            "seed": config.seed,
            "command": self.command,
            "options": self.options,
            "held_out": config.data.holdout > 0,
            "evaluated_on": first.get("evaluated_on"),
            "n": first.get("n"),
            "units": first.get("units"),
            "criteria_on": first.get("criteria_on"),
            "best": choose(good, held_out=config.data.holdout > 0),
            "members": results,
        }


def report(out: Path, progress: bool = True) -> Path:
    """Write the report of every member of a finished sweep, and its page, which links to them. Returns the page.

    Raises:
        RunError: there is no sweep, or what it holds is damaged.
    """
    try:
        summary = json.loads((out / "sweep.json").read_bytes())
        fitted = {member["name"] for member in summary["members"] if not member["error"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{out} holds no finished sweep, or a damaged one: the same `latentia sweep` again") from error
    with alone(out):
        return _report_each(out, summary, fitted, progress)


def _report_each(out: Path, summary: dict[str, Any], names: set[str], progress: bool) -> Path:
    """Write the reports of the members that are named, and the page with links to all that there are."""
    try:
        with Bar("reports", len(names), 0, shown=progress) as bar, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it is about is said in the report
            for done, name in enumerate(sorted(names), 1):
                Run.open(out / name).report()
                bar.show(done)
    finally:
        linked = {member["name"] for member in summary["members"] if (out / member["name"] / REPORT).exists()}
        page = build_comparison(summary, linked)
        atomic_write(out / "sweep.html", page.encode("utf-8", "backslashreplace"))
    return out / "sweep.html"


@contextmanager
def _made(out: Path) -> Iterator[None]:
    """The directory of a sweep; gone again where nothing came of it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise RunError(f"cannot make {out}: {getattr(error, 'strerror', None) or error}") from error
    try:
        yield
    except LatentiaError:
        with suppress(OSError):  # one that is not empty stays
            out.rmdir()
        raise


def _default_out(config: Config) -> Path:
    out = default_out(config.model, config.data.source)
    return out.with_name(f"sweep-{out.name}")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _finished(run: Run, importance_samples: int) -> bool:
    """Whether it is fitted, and evaluated as it is to be."""
    if not run.finished:
        return False
    found = _evaluation(run)
    return found is not None and found["importance_samples"] in (None, importance_samples)


def _evaluation(run: Run) -> dict[str, Any] | None:
    """Its evaluation; None for one that is to be made, again where it is damaged."""
    try:
        return run.evaluation if (run.path / "evaluation.safetensors").exists() else None
    except RunError:
        return None


def _fit_each(members: list[Member], importance_samples: int, jobs: int, tell: Callable[[int], None]) -> dict[str, str]:
    """Fit them, so many at a time, and return what went wrong with which."""
    methods = multiprocessing.get_all_start_methods()
    # a fork server imports what is slow to import once, and has no threads that a fork could lose
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload(SLOW_TO_IMPORT)
    if context.get_start_method() == "forkserver":
        with _deaf():
            forkserver.ensure_running()
    threads = max(_cores() // jobs, 1)
    waiting, running, errors = deque(members), {}, {}
    with _threads_in_children(threads):
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    member = waiting.popleft()
                    reader, writer = context.Pipe(duplex=False)
                    arguments = (str(member.path), importance_samples, threads, writer)
                    process = context.Process(target=_work, args=arguments, daemon=True)
                    with _deaf():
                        process.start()
                    writer.close()
                    running[process.sentinel] = member, process, reader
                for sentinel in wait(list(running)):
                    member, process, reader = running.pop(sentinel)
                    process.join()
                    error = _last_words(reader, process.exitcode)
                    errors |= {member.name: error} if error else {}
                    tell(len(members) - len(waiting) - len(running))
        finally:
            for _, process, _ in running.values():
                process.terminate()  # its checkpoint is whole, and the same command goes on from there
                process.join()
    return errors


@contextmanager
def _deaf() -> Iterator[None]:
    """Start processes that do not hear Ctrl-C: this one does, in a moment, and ends them. They would print where they
    were interrupted."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """End this process when the sweep that has started it ends, in whatever way: nobody would wait for its fit."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)  # at any moment: files are written whole or not at all

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _threads_in_children(threads: int) -> Iterator[None]:
    """What libraries other than torch read when they start."""
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _work(path: str, importance_samples: int, threads: int, writer: Connection) -> None:
    """Fit and evaluate one member, in a process of its own, and say what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and ends this process
    _end_with_parent()
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    try:
        run = Run.open(Path(path))
        if not run.finished:
            run.fit(progress=False)
        run.evaluate(importance_samples, progress=False)
        error = ""
    except LatentiaError as refused:
        error = str(refused)
    except Exception as failure:  # whatever it is, it is this member's alone
        error = f"{type(failure).__name__}: {failure}"
    writer.send_bytes(" ".join(error.split())[:2000].encode())


def _last_words(reader: Connection, status: int | None) -> str:
    """What a process that has ended said of its error; empty where it had none."""
    try:
        return reader.recv_bytes().decode()
    except EOFError:
        killed = f"by signal {-status}" if status and status < 0 else f"with status {status}"
        return f"its process ended {killed}, perhaps for want of memory: try fewer --jobs"
    finally:
        reader.close()


# -------------------------------------------------------------------------------------------------- what came of it

TAKEN = [name for name in PLAIN if name not in ("kl_per_unit", "layers", "seed")]
"""What a sweep has of each member's evaluation."""


def _result(member: Member, error: str | None) -> dict[str, Any]:
    """What came of a member, by the files in its directory."""
    result = {"name": member.name, "options": member.options, "run": str(member.path), "error": error}
    if error:
        return result
    run = Run.open(member.path)
    evaluation = _evaluation(run) or {}
    model = run.model()
    return {
        **result,
        **{name: evaluation.get(name) for name in TAKEN},
        "behind": None,
        "behind_se": None,
        "seconds": sum(line.get("seconds") or 0.0 for line in read_metrics(run.path / "metrics.jsonl")),
        **run.learned,
        "concerns": model.concerns() if isinstance(model, EMModel) else [],
    }


def _compare(results: list[dict[str, Any]]) -> None:
    """Add "behind", by how much a member's mean log p(x) lies below the best, and the standard error of that."""
    check_comparable([result.get("units") for result in results])
    best = _best(results)
    for result in results if best else []:
        if result["log_marginal"] is not None:
            each = (read_tensors(Path(one["run"]) / "evaluation.safetensors")[0]["each"] for one in (best, result))
            error = standard_error(*each)
            result["behind"] = best["log_marginal"] - result["log_marginal"]
            result["behind_se"] = error if math.isfinite(error) else None


def _best(results: list[dict[str, Any]]) -> dict[str, Any]:
    measured = [result for result in results if result["log_marginal"] is not None]
    return max(measured, key=lambda result: result["log_marginal"], default={})


def choose(results: list[dict[str, Any]], held_out: bool) -> dict[str, str | None]:
    """The names of the best members, each by its rule; None where a rule has nothing to go by.

    "log_marginal" has the highest held-out log p(x). "simplest" has the fewest parameters of those that are behind it
    by no more than one standard error of the difference: the rule of one standard error (Breiman et al. 1984,
    section 3.4.3; Hastie, Tibshirani and Friedman 2009, section 7.10), with the data paired. "aic" and "bic" have the
    lowest.
    """
    found: dict[str, str | None] = dict.fromkeys(("log_marginal", "simplest", "aic", "bic"))
    if held_out and (best := _best(results)):
        compared = [result for result in results if result["behind"] is not None]
        near = [result for result in compared if result["behind"] <= (result["behind_se"] or 0.0)]
        simplest = min(near, key=lambda result: (result["free_parameters"], result["behind"]))
        found |= {"log_marginal": best["name"], "simplest": simplest["name"]}
    for name in ("aic", "bic"):
        charged = [result for result in results if result[name] is not None]
        if charged:
            found[name] = min(charged, key=lambda result: result[name])["name"]
    return found
