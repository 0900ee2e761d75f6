"""`latentia fit` and `latentia sweep`: options of models, learners and objectives are built from their signatures and
docstrings."""

from __future__ import annotations

import argparse
import ast
import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from latentia.cli import catalogue
from latentia.cli.measuring import show_table
from latentia.cli.parsing import Whole, brief, like, printable, refuse, say, show, tell
from latentia.errors import OptionError

FROM_DATA = {
    "event_shape",
    "features",
    "symbols",
    "columns",
    "context",
    "source_symbols",
    "source_features",
    "grammar",
    "copies",
}
NOT_ON_THE_LINE = FROM_DATA | {"encoder", "decoder", "objective", "batch", "model", "estimator", "progress", "fresh"}
CHOSEN = {"likelihood", "latent", "restarts", "hard"}
"""Options that are chosen from the data, unless the command names them."""
BASE = "base"
"""The option of a model that is built upon another: the run of that one."""
NOT_OF_OBJECTIVES = {"model", "batch", "estimator", "held", "chains"}


def fit(arguments: list[str]) -> None:
    """Learn a model from data, evaluate it on held-out data, and write a report."""
    chosen = _choices(arguments)
    if chosen.resume:
        refuse(chosen.rest, [], "latentia fit --resume RUN, which takes no other option,")
        _learn(lambda: _resumed(Path(chosen.resume)))  # evaluated as was asked for at first
        return
    if chosen.help:
        _fit_parser(chosen).print_help()
        return
    _refuse_early(chosen)
    # torch and the models take seconds to import: not for a misspelt option above
    from latentia.runs.config import default_out, this_command
    from latentia.runs.directory import Run

    parser = _fit_parser(chosen)
    parsed = parser.parse_args(chosen.rest).as_dict()
    config = _config(chosen, parsed, this_command())

    def create() -> Run:
        config.fingerprint = config.data.fingerprint()
        out = Path(parsed["out"]) if parsed["out"] else default_out(config.model, config.data.source)
        return Run.create(out, config, parsed["overwrite"])

    _learn(create, config)


def _config(chosen: argparse.Namespace, parsed: dict[str, Any], command: str):
    from latentia.runs.config import Config, Source, is_large

    if parsed["stream"] is None:
        parsed["stream"] = chosen.learner == "EM" and is_large(parsed["source"])
    source = Source(**{name.name: parsed[name.name] for name in fields(Source)})
    if chosen.learner in ("EM", "Gibbs"):
        source.validation = 0.0
    if parsed.get("device"):
        parsed["learner"]["device"] = parsed["device"]
    return Config(
        model=chosen.model,
        data=source,
        model_options=_asked("model", parsed.get("model"), chosen.words),
        learner=chosen.learner,
        learner_options=_asked("learner", parsed.get("learner"), chosen.words),
        objective=chosen.objective,
        objective_options=_plain(parsed.get("objective") or {}),
        seed=parsed["seed"],
        command=command,
        importance_samples=parsed["importance_samples"],
        evaluation=parsed.get("evaluation", True),
    )


def _asked(group: str, options: dict[str, Any] | None, words: list[str]) -> dict[str, Any]:
    """The options, without those that are chosen from the data where they are not among the words of the command."""
    said = {word.split("=")[0].removeprefix(f"--{group}.") for word in words}
    return {name: value for name, value in _plain(options or {}).items() if name not in CHOSEN or name in said}


def _resumed(path: Path):
    from latentia.errors import RunError
    from latentia.runs.directory import Run

    run = Run.open(path)
    if run.finished:
        raise RunError(f"{path} is finished: there is nothing to resume")
    return run


def _learn(find: Callable[[], Any], asked: Any = None) -> None:
    """Fit the run that is found, in all processes that torchrun has started; evaluate and report as the config `asked`
    says, or the run's own; and say where it is."""
    from latentia.learners import distributed
    from latentia.report.words import end, spread
    from latentia.runs.directory import Run

    with distributed.group():
        run = Run.shared(find)
        if distributed.rank():
            run.fit(progress=False)
            return
        with _goes_on(run):
            where = f"{run.config.data.source}: {len(run.parts.train):,} data to learn from"
            among = f" in {distributed.size()} processes" if distributed.size() > 1 else ""
            say(f"{run.config.model} on {where}{among}, {run.path}")
            if run.parts.train.schema.kinds:
                fields = ", ".join(map(str, run.parts.train.schema.fields))
                say(f"columns: {fields}; others by --columns NAME:KIND")
            for line in run.chosen():
                say(line)
            history = run.fit()
    say(end(history.stopped))
    if len(history.restarts) > 1:
        say(spread(history.restarts))
    with _goes_on(run):
        _told(run, asked or run.config)


@contextlib.contextmanager
def _goes_on(run: Any) -> Iterator[None]:
    """Where it ends early, say by which command what has been learned goes on; of what has learned nothing, leave
    nothing behind."""
    from latentia.errors import LatentiaError, ProcessLost

    try:
        yield
    except (BrokenPipeError, ProcessLost):
        raise  # the reader has left; or it says so itself
    except BaseException as error:
        if run.finished:
            say(f"the model is fitted, and kept: go on with `latentia report {run.path}`")
        elif run.begun:
            say(f"what was learned is kept: go on with `latentia fit --resume {run.path}`")
        elif isinstance(error, LatentiaError) or run.replaced:
            run.undo()
        raise


def _told(run: Any, asked: Any) -> None:
    """Evaluate and report as asked, and say what has been found."""
    if asked.evaluation:
        found = run.evaluate(asked.importance_samples)
        say(f"report: {run.report()}")
        show_table(found)  # last: its reader may have left (`latentia fit ... | head`)
    summary = run.summary()
    if summary.of:
        tell(f"\n{summary}")


SWEEP = """\
Fit a model for each of several values of its options, and compare them on the same held-out data.

Any option of the model, the learner or the objective takes several values: 1:20 (both ends are in), 10:50:10 (by
steps), full,diagonal (a list), 1:5,10,20 (both). Several such options make every combination. Each member is a run
directory of its own under --out, fitted in a process of its own. The same command again goes on after an
interruption, keeps what is finished and tries again what has failed.

The best is named by held-out log p(x), and so is the smallest model within one standard error of it; where log p(x) is
exact AIC and BIC, which are of the training data, are given too. All of it is in sweep.html and sweep.json.
"""


def sweep(arguments: list[str]) -> None:
    """Fit a model for each of several values of its options, and compare them on the same held-out data."""
    from latentia.errors import RunError

    chosen = _choices(arguments, "sweep")
    if chosen.resume:
        raise OptionError("a sweep is resumed by the same command again, without --resume")
    if chosen.help:
        _fit_parser(chosen).print_help()
        return
    _refuse_early(chosen)
    from latentia.runs.config import this_command
    from latentia.runs.sweep import Sweep, expand

    parser = _fit_parser(chosen)
    words, swept = expand(chosen.rest)

    def configure(options: list[str]):
        parsed = parser.parse_args([*words, *options]).as_dict()
        command = ["latentia", "fit", "--model", chosen.model, "--learner", chosen.learner]
        command += ["--objective", chosen.objective] if chosen.objective else []
        return _config(chosen, parsed, shlex.join([*command, *words, *options]))

    out = Path(chosen.out) if chosen.out else None
    sweep = Sweep.plan(swept, configure, out, this_command())
    summary = sweep.run(chosen.jobs, chosen.importance_samples)
    _comparison(summary)
    say(f"report: {sweep.out / 'sweep.html'}")
    failed = [member["name"] for member in summary["members"] if member["error"]]
    if failed:
        raise RunError(f"{len(failed)} of {len(summary['members'])} failed ({', '.join(failed)}); the others are kept")


def _comparison(summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from latentia.report.comparison import HEAD, conclusions, rows

    table = Table()
    for name in (*(option.split(".")[-1] for option in summary["options"]), *HEAD):
        table.add_column(Text(printable(name)), justify="right")
    for row in rows(summary):
        table.add_row(*(Text(printable(cell)) for cell in row))  # words of others are no markup
    console = Console(width=None if sys.stdout is not None and sys.stdout.isatty() else 140)
    with console.capture() as drawn:
        console.print(table)
        for line in conclusions(summary):
            console.print(printable(line), highlight=False, markup=False)
    show(drawn.get())


def _choices(arguments: list[str], command: str = "fit") -> argparse.Namespace:
    """Which model, learner and objective: their options are only known then."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--model", "--learner", "--objective", "--resume"):
        first.add_argument(name)
    first.add_argument("-h", "--help", action="store_true")
    if command == "sweep":
        first.add_argument("--out")
        first.add_argument("--jobs", type=Whole(1))
        first.add_argument("--importance_samples", type=Whole(1), default=1000)
    try:
        chosen, rest = first.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise OptionError(f"{error}; see latentia {command} --help") from error
    chosen.command, chosen.rest, chosen.words = command, rest, list(arguments)
    if chosen.resume:
        return chosen
    models = catalogue.models()
    if not chosen.model:
        if not chosen.help:
            near = next((word for word in rest if like(word.split("=")[0], ["--model", "--resume"])), None)
            refuse([near] if near else [], ["--model", "--resume"], f"latentia {command}")
            chosen.model = _proposed(chosen, models)
        else:
            chosen.learner = chosen.objective = None
            return chosen
    _known("model", chosen.model, models)
    exact, by_em = (catalogue.derives(chosen.model, base) for base in ("TractableModel", "EMModel"))
    # collapsed Gibbs sampling finds better topics than variational EM, and sooner
    best = "Gibbs" if catalogue.defines(chosen.model, "sampler") else "EM" if by_em else "Gradient"
    chosen.learner = chosen.learner or best
    _known("learner", chosen.learner, catalogue.learners())
    if chosen.learner == "Gradient":
        chosen.objective = chosen.objective or ("exact" if exact else "elbo")
        _known("objective", chosen.objective, catalogue.objectives())
    elif chosen.objective:
        raise OptionError(f"--objective {chosen.objective}: EM climbs log p(x) itself; use --learner Gradient")
    return chosen


def _proposed(chosen: argparse.Namespace, models: list[str]) -> str:
    """A model for the data, where none was named, and why. Raises `OptionError` where there are no data either."""
    parsed, _ = _early(chosen).parse_known_args(chosen.rest)
    if parsed.source is None:
        raise OptionError(f"--model is needed: one of {', '.join(models)}")
    from latentia.runs.chosen import proposed
    from latentia.runs.config import Source

    told = {name.name: getattr(parsed, name.name) for name in fields(Source) if name.name != "stream"}
    model, why = proposed(Source(**told).read())
    say(f"no --model was named: {model}, as the data are {why}; all models: {', '.join(models)}")
    return model


def _known(what: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise OptionError(f"unknown {what} {name!r}{like(name, known)}; the {what}s are {', '.join(known)}")


USAGE = {
    "fit": "latentia fit --model MODEL --data DATA [--out RUN] [options]\n       latentia fit --resume RUN",
    "sweep": "latentia sweep --model MODEL --data DATA --model.OPTION VALUES [--out DIRECTORY] [--jobs N] [options]",
}


OUT = {
    "fit": "Run directory to make; runs/<model>-<data> if left out.",
    "sweep": "Directory for all members; runs/sweep-<model>-<data> if left out.",
}


def _fit_parser(chosen: argparse.Namespace):
    """The parser of all options of `fit`, for the chosen model, learner and objective."""
    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    class Parser(ArgumentParser):
        def error(self, message: str, *_: Any) -> NoReturn:  # type: ignore[override]
            lines = [line.strip() for line in message.splitlines() if line.strip()]
            text = " ".join(lines).replace("are required: source", "are required: --data")
            if text.startswith("unrecognized arguments: "):
                refuse(text.split(": ", 1)[1].split(), self._option_string_actions, f"latentia {chosen.command}")
            raise OptionError(f"{text}; see latentia {chosen.command} --model {chosen.model} --help")

    class Formatter(DefaultHelpFormatter):
        def _fill_text(self, text: str, width: int, indent: str) -> str:
            parts = (super(Formatter, self)._fill_text(part, width, indent) for part in text.split("\n\n"))
            return "\n\n".join(parts)

    parser = Parser(
        prog=f"latentia {chosen.command}",
        usage=USAGE[chosen.command],
        description=SWEEP if chosen.command == "sweep" else fit.__doc__,
        formatter_class=Formatter,
        add_help=False,
        allow_abbrev=False,
    )
    _add_run(parser.add_argument_group("run", description=_offer(chosen)), chosen)
    _add_data(parser.add_argument_group("data"))
    if chosen.model:
        from latentia.runs.build import LEARNERS, MODELS

        _add_options(parser, "model", chosen.model, MODELS)
        _add_options(parser, "learner", chosen.learner, LEARNERS)
    if chosen.objective:
        from latentia.runs.build import OBJECTIVES

        skip: set[str | int] = {*NOT_OF_OBJECTIVES}
        parser.add_function_arguments(OBJECTIVES[chosen.objective], "objective", skip=skip)
        if "estimator" in catalogue.options(chosen.objective):
            parser.add_argument("--objective.estimator", type=str | None, default=None, help=_estimators())
        _entitle(parser, "objective", chosen.objective)
    return parser


def _estimators() -> str:
    from latentia.gradients import ESTIMATORS

    return f"Of the gradient, mostly of discrete latents: {', '.join(ESTIMATORS)}."


def _early(chosen: argparse.Namespace) -> argparse.ArgumentParser:
    """A parser of what does not depend on the model, which needs nothing that is slow to import."""

    class Early(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise OptionError(f"{brief(message)}; see latentia {chosen.command} --model {chosen.model} --help")

        def add_argument(self, *names: str, type: Any = None, required: bool = False, **others: Any) -> Any:
            checked = type if isinstance(type, Whole) or type in (int, float) else None
            how = {} if "action" in others else {"nargs": "?", "type": checked}
            return super().add_argument(*names, **others, **how)

    parser = Early(add_help=False, allow_abbrev=False)
    _add_run(parser, chosen)
    _add_data(parser)
    return parser


def _refuse_early(chosen: argparse.Namespace) -> None:
    """Raise `OptionError`, before torch is imported, for an option that there is not, or a value its type excludes.

    Values of types that are put together are left to jsonargparse, and so are those of a sweep, which may be several.
    """

    parser = _early(chosen)
    for group, name in (("model", chosen.model), ("learner", chosen.learner), ("objective", chosen.objective)):
        skip = NOT_OF_OBJECTIVES if group == "objective" else NOT_ON_THE_LINE
        for option, annotation in catalogue.options(name).items() if name else ():
            if option not in skip:
                one = _one_word(annotation) if chosen.command == "fit" else {}
                # a list takes more by --model.hidden+
                parser.add_argument(*(f"--{group}.{option}{more}" for more in ([""] if one else ["", "+"])), **one)
    if chosen.objective and "estimator" in catalogue.options(chosen.objective):
        parser.add_argument("--objective.estimator")
    parsed, unknown = parser.parse_known_args(chosen.rest)
    refuse(unknown, parser._option_string_actions, f"latentia {chosen.command}")
    if parsed.source is None:
        raise OptionError(f"--data is needed; see latentia {chosen.command} --model {chosen.model} --help")


def _one_word(annotation: str) -> dict[str, Any]:
    """How argparse is told of a type, as it is written, that one word can be tested for; nothing of any other."""
    if annotation.startswith("Literal["):
        return {"choices": ast.literal_eval(f"({annotation.removeprefix('Literal[').removesuffix(']')},)")}
    return {"type": {"int": int, "float": float}[annotation]} if annotation in ("int", "float") else {}


def _add_run(group: Any, chosen: argparse.Namespace) -> None:
    group.add_argument("-h", "--help", action="store_true", help="Show this message; with --model M, M's options too.")
    group.add_argument("--out", type=str, default=None, help=OUT[chosen.command])
    group.add_argument(
        "--seed", type=Whole(0), default=0, help="Of every random number: the same seed, the same parameters."
    )
    group.add_argument("--importance_samples", type=Whole(1), default=1000, help="For the evaluation after the fit.")
    if chosen.learner == "Gradient":
        group.add_argument("--device", type=str, default=None, help="cpu or cuda, as --learner.device.")
    if chosen.command == "sweep":
        group.add_argument("--jobs", type=Whole(1), default=None, help="Fits at a time; one for each core if left out.")
    else:
        group.add_argument("--overwrite", action="store_true", help="Replace the run that --out holds.")
        group.add_argument("--evaluation", type=bool, default=True, help="Evaluate and write a report after the fit.")


def _offer(chosen: argparse.Namespace) -> str:
    """The models, learners and objectives that there are, and which are chosen."""
    offers = []
    for name, known in (
        ("model", catalogue.models),
        ("learner", catalogue.learners),
        ("objective", catalogue.objectives),
    ):
        value = getattr(chosen, name)
        offers.append(f"--{name} {' | '.join(known())}" + (f" (chosen: {value})" if value else ""))
    return "; ".join(offers) + ("; --resume RUN goes on with an interrupted fit" if chosen.command == "fit" else "")


def _add_options(parser: Any, group: str, name: str, known: dict[str, Any]) -> None:
    import inspect

    parameters = set(inspect.signature(known[name]).parameters)
    skip = (NOT_ON_THE_LINE | {BASE}) & parameters
    parser.add_class_arguments(known[name], group, skip=skip)
    if BASE in parameters:
        told = "Directory of the finished run whose model this one is built upon, and whose schema reads the data."
        parser.add_argument(f"--{group}.{BASE}", type=str, required=True, help=told)
    _entitle(parser, group, name)
    for action in parser._actions:
        if action.dest in {f"{group}.{option}" for option in CHOSEN}:
            action.default = None
            action.help = f"{action.help or ''} Left out: chosen from the data, and told."


def _entitle(parser: Any, group: str, name: str) -> None:
    """A heading that says what is chosen, and none of the config-file option that jsonargparse would add."""
    for part in parser._action_groups:
        if any(action.dest.startswith(f"{group}.") for action in part._group_actions):
            part.title = f"options of {name} ({part.title.rstrip(':')})" if part.title else f"options of {name}"
            for action in part._group_actions:
                if action.dest == group:
                    action.help = argparse.SUPPRESS


def _add_data(group: Any) -> None:
    group.add_argument(
        "--data",
        dest="source",
        type=str,
        required=True,
        help=(
            "digits, sentences (built in), or a path: .npy .npz .csv .tsv .parquet .xlsx .txt .jsonl idx .mat (.csv.gz "
            "and the like too), .dat .feat (bags of words), or a folder of images."
        ),
    )
    group.add_argument(
        "--key",
        type=str,
        default=None,
        help="Name of the array in an .npz or .mat file, or of the field of a .jsonl one.",
    )
    group.add_argument(
        "--columns",
        type=str,
        default=None,
        help=(
            "Columns of a table, as a,b,c; with their kinds where those are told wrongly, as age:real,plan:category "
            "(real, category, binary or count), beside which all others stay."
        ),
    )
    group.add_argument("--exclude", type=str, default=None, help="Columns of a table to leave out, as a,b,c.")
    group.add_argument("--kind", type=str, default="auto", help="auto, table, sequence, text or image.")
    group.add_argument("--vocabulary", type=str, default=None, help="For bags of words, a file with a word a line.")
    group.add_argument(
        "--values",
        type=str,
        default="auto",
        help=(
            "auto, real, binary, levels, symbols, mixed; or colour, of images: their chroma given grey, on a grid in "
            "Lab (10 apart up to 100, or as colour:STEP:REACH says)."
        ),
    )
    group.add_argument(
        "--scale",
        type=str,
        default="auto",
        help=(
            "auto, standard or none; auto leaves counts (--model.emission poisson or multinomial) as they are. Fitting "
            "happens in scaled units, log p(x) is in those of the data as given."
        ),
    )
    group.add_argument(
        "--binarize",
        type=str,
        default="auto",
        help=(
            "Grey images: none; fixed (drawn once); dynamic (drawn anew for each batch); auto: dynamic for a Bernoulli "
            "likelihood."
        ),
    )
    group.add_argument("--min_count", type=int, default=2, help="Rarer words count as <unk>.")
    group.add_argument("--max_vocabulary", type=int, default=None, help="At most so many words.")
    group.add_argument("--tokens", type=str, default="words", help="Of text: words, bytes, or subwords (learned).")
    group.add_argument(
        "--max_length", type=Whole(1), default=None, help="Symbols of a text or sequence, at most: the rest is cut off."
    )
    group.add_argument(
        "--weight", type=str, default=None, help="Column of a table that says how often each row counts; 0 = absent."
    )
    group.add_argument(
        "--context",
        type=str,
        default=None,
        help=(
            "What p(x | context) is given: columns of the table (numbers or categories), as a,b; the key of another "
            "array of the file; or a file with as many data."
        ),
    )
    group.add_argument(
        "--labels",
        type=str,
        default=None,
        help="Classes to learn from, where a cell is not empty: a column of the table, a key, a file of "
        "numbers, or folders (of images: the names of those they lie in). Of StructVAE the column of logical forms.",
    )
    group.add_argument(
        "--grammar",
        type=str,
        default=None,
        help="A file with the signature of the logical forms of --labels; left out, these imply one.",
    )
    group.add_argument(
        "--group",
        type=str,
        default=None,
        help="A table with a step of a series in each row: the column that says which series it belongs to.",
    )
    group.add_argument("--time", type=str, default=None, help="The column of numbers or dates that orders the steps.")
    _add_text(group)
    group.add_argument("--first", type=Whole(1), default=None, help="Only the first so many data.")
    group.add_argument(
        "--stream",
        type=bool | None,
        default=None,
        help="Read a .npy or Parquet file block by block, as it is larger than memory; left out: above 1 GiB, for EM.",
    )
    group.add_argument(
        "--holdout",
        type=float,
        default=0.1,
        help="Fraction kept for evaluation; 0 evaluates on the training data, and says so.",
    )
    group.add_argument(
        "--validation", type=float, default=0.1, help="Fraction of the rest for early stopping; EM and Gibbs use none."
    )


def _add_text(group: Any) -> None:
    group.add_argument("--text_column", type=str, default=None, help="Column of a table, or key of a .jsonl, of texts.")
    group.add_argument("--lower", type=bool, default=False, help="Text in lower case.")
    group.add_argument(
        "--words",
        type=str,
        default="spaces",
        help="What is a word: spaces (what stands between them), punctuation (marks apart), letters (two or more).",
    )
    group.add_argument(
        "--stop_words", type=str, default="none", help="none, or english: leave out the, of, and ... (scikit-learn's)."
    )
    group.add_argument("--ngrams", type=Whole(1), default=1, help="Runs of up to so many words are words too.")
    group.add_argument(
        "--min_documents",
        type=float,
        default=None,
        help="Leave out words of fewer texts: how many, or which share below 1. Topics of raw text need it, as they do "
        "--words letters --lower true --stop_words english --max_documents 0.5.",
    )
    group.add_argument("--max_documents", type=float, default=None, help="Leave out words of more texts than that.")


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
