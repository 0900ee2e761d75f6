"""The command `latentia`: from data to a trained model, an honest evaluation and a report.

Options of models, learners and objectives are built from their signatures and docstrings.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import math
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from latentia.errors import LatentiaError, OptionError

HELP = """\
latentia: latent-variable models, from data to report.

usage: latentia COMMAND [options]           latentia COMMAND --help explains a command

  fit          learn a model from data; evaluate it on held-out data; write a report
  sweep        a fit for each of several values of options, compared
  evaluate     log p(x), its bound and what the latents carry, on held-out or other data
  sample       draw new data from a fitted model
  encode       what the model makes of each datum: latent coordinates, clusters, tags
  interpolate  the way from one datum to another, through the latent space
  complete     fill in what is missing, or what is hidden to see how well that goes
  traverse     what each latent dimension does
  cluster      the clusters of the data, and how well they agree with labels
  detect       what does not belong: a score of oddness for each datum
  gap          what the encoder gives away of the bound, and what its family of posteriors does
  report       write the HTML report of a run again

examples
  latentia fit --model VAE --data digits --out runs/digits
  latentia fit --model GaussianMixture --data table.csv --columns height,weight --model.components 3
  latentia fit --model HMM --data sentences --model.states 45
  latentia sweep --model GaussianMixture --data table.csv --model.components 1:10
  latentia evaluate runs/digits --importance_samples 1000
  latentia complete runs/digits --hide bottom --first 12
  latentia detect runs/digits --score regret --outliers odd.npy
"""

FROM_DATA = {"event_shape", "features", "symbols"}
NO_MEMORY = "out of memory: a smaller model, a lower --learner.batch_size or --first N data need less"
NOT_ON_THE_LINE = FROM_DATA | {"encoder", "decoder", "objective", "batch", "model", "estimator", "progress", "fresh"}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit: 0 done, 2 something that its user can mend, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    warnings.showwarning = lambda message, *_, **__: print(f"latentia: warning: {message}", file=sys.stderr)
    try:
        _run(arguments)
        sys.stdout.flush()
        status = 0
    except LatentiaError as error:
        status = _fail(str(error))
    except BrokenPipeError:
        # the reader has left (`latentia ... | head`): nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except OSError as error:
        status = _fail(f"{error.filename or 'a file'}: {error.strerror or error}; what was saved before is still there")
    except MemoryError:
        status = _fail(NO_MEMORY)
    except RuntimeError as error:
        # torch has no exception of its own for a full memory on the CPU
        if not any(words in str(error) for words in ("allocate memory", "out of memory")):
            raise
        status = _fail(NO_MEMORY)
    except KeyboardInterrupt:
        print("latentia: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        status = 130
    sys.exit(status)


def _fail(message: str) -> int:
    who = f"process {os.environ['RANK']}: " if os.environ.get("RANK", "0") != "0" else ""
    print(f"latentia: error: {who}{' '.join(message.split())}", file=sys.stderr)
    return 2


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP)
        return
    if arguments[0] == "--version":
        import latentia

        print(f"latentia {latentia.__version__}")
        return
    name, *rest = arguments
    if name not in COMMANDS:
        raise OptionError(f"unknown command {name!r}{_like(name, COMMANDS)}; the commands are {', '.join(COMMANDS)}")
    COMMANDS[name](rest)


def _like(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


class _Parser(argparse.ArgumentParser):
    """argparse, with errors as `OptionError` and suggestions for misspelt options."""

    def __init__(self, command: str, description: str):
        form = argparse.ArgumentDefaultsHelpFormatter
        super().__init__(f"latentia {command}", description=description, formatter_class=form, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message}; see {self.prog} --help")

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        parsed, unknown = self.parse_known_args(arguments)
        _refuse(unknown, self._option_string_actions, self.prog)
        return parsed


@dataclass(frozen=True)
class Whole:
    """A parser of whole numbers from `least` up to what torch can hold."""

    least: int

    def __call__(self, text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if not self.least <= number < 2**63:
            raise argparse.ArgumentTypeError(f"{number} is no whole number of {self.least} or more, below 2^63")
        return number

    def __repr__(self) -> str:
        return f"whole number from {self.least}"  # what --help calls it


def _refuse(unknown: list[str], known: Any, program: str) -> None:
    if unknown:
        option = unknown[0].split("=")[0]
        raise OptionError(f"unknown option {option}{_like(option, known)}; see {program} --help")


# ---------------------------------------------------------------------------------------------------------------- fit


def fit(arguments: list[str]) -> None:
    """Learn a model from data, evaluate it on held-out data, and write a report."""
    chosen = _choices(arguments)
    if chosen.resume:
        _refuse(chosen.rest, [], "latentia fit --resume RUN, which takes no other option,")
        _learn(lambda: _resumed(Path(chosen.resume)))
        return
    # torch and the models take seconds to import: not for a misspelt option above
    from latentia.run import Run, default_out, this_command

    parser = _fit_parser(chosen)
    if chosen.help:
        parser.print_help()
        return
    parsed = parser.parse_args(chosen.rest).as_dict()
    config = _config(chosen, parsed, this_command())

    def create() -> Run:
        config.fingerprint = config.data.fingerprint()
        out = Path(parsed["out"]) if parsed["out"] else default_out(config.model, config.data.source)
        return Run.create(out, config)

    _learn(create, parsed["importance_samples"], parsed["evaluation"])


def _config(chosen: argparse.Namespace, parsed: dict[str, Any], command: str):
    from latentia.run import Config, Source, is_large

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
        model_options=_plain(parsed.get("model") or {}),
        learner=chosen.learner,
        learner_options=_plain(parsed.get("learner") or {}),
        objective=chosen.objective,
        objective_options=_plain(parsed.get("objective") or {}),
        seed=parsed["seed"],
        command=command,
    )


def _resumed(path: Path):
    from latentia.errors import RunError
    from latentia.run import Run

    run = Run.open(path)
    if run.finished:
        raise RunError(f"{path} is finished: there is nothing to resume")
    return run


def _learn(find: Callable[[], Any], importance_samples: int = 1000, evaluation: bool = True) -> None:
    """Fit the run that is found, in all processes that torchrun has started; evaluate, report, and say where it is."""
    from latentia.learners import distributed
    from latentia.report.words import end, spread
    from latentia.run import Run

    with distributed.group():
        run = Run.shared(find)
        if distributed.rank():
            run.fit(progress=False)
            return
        where = f"{run.config.data.source}: {len(run.parts.train):,} data to learn from"
        among = f" in {distributed.size()} processes" if distributed.size() > 1 else ""
        _say(f"{run.config.model} on {where}{among}, {run.path}")
        history = run.fit()
    _say(end(history.stopped))
    if len(history.restarts) > 1:
        _say(spread(history.restarts))
    if evaluation:
        _table(run.evaluate(importance_samples))
        _say(f"report: {run.report()}")


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
    parser = _fit_parser(chosen)
    if chosen.help:
        parser.print_help()
        return
    from latentia.run import this_command
    from latentia.sweep import Sweep, expand

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
    _say(f"report: {sweep.out / 'sweep.html'}")
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
        table.add_column(name, justify="right")
    for row in rows(summary):
        table.add_row(*map(Text, row))  # words of others are no markup
    console = Console(width=None if sys.stdout.isatty() else 140)
    with console.capture() as drawn:
        console.print(table)
        for line in conclusions(summary):
            console.print(line, highlight=False, markup=False)
    print(drawn.get(), end="")


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
    chosen.command, chosen.rest = command, rest
    if chosen.resume:
        return chosen
    from latentia.model import EMModel, TractableModel
    from latentia.run import LEARNERS, MODELS, OBJECTIVES

    if not chosen.model:
        if not chosen.help:
            near = next((word for word in rest if _like(word.split("=")[0], ["--model", "--resume"])), None)
            _refuse([near] if near else [], ["--model", "--resume"], f"latentia {command}")
            raise OptionError(f"--model is needed: one of {', '.join(MODELS)}")
        chosen.learner = chosen.objective = None
        return chosen
    _known("model", chosen.model, MODELS)
    exact = issubclass(MODELS[chosen.model], TractableModel)
    by_em = issubclass(MODELS[chosen.model], EMModel)
    chosen.learner = chosen.learner or ("EM" if by_em else "Gradient")
    _known("learner", chosen.learner, LEARNERS)
    if chosen.learner == "Gradient":
        chosen.objective = chosen.objective or ("exact" if exact else "elbo")
        _known("objective", chosen.objective, OBJECTIVES)
    elif chosen.objective:
        raise OptionError(f"--objective {chosen.objective}: EM climbs log p(x) itself; use --learner Gradient")
    return chosen


def _known(what: str, name: str, known: dict[str, Any]) -> None:
    if name not in known:
        raise OptionError(f"unknown {what} {name!r}{_like(name, known)}; the {what}s are {', '.join(known)}")


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

    from latentia.run import LEARNERS, MODELS, OBJECTIVES

    class Parser(ArgumentParser):
        def error(self, message: str, *_: Any) -> NoReturn:  # type: ignore[override]
            lines = [line.strip() for line in message.splitlines() if line.strip()]
            text = " ".join(lines).replace("are required: source", "are required: --data")
            if text.startswith("unrecognized arguments: "):
                _refuse(text.split(": ", 1)[1].split(), self._option_string_actions, f"latentia {chosen.command}")
            raise OptionError(f"{text}; see latentia {chosen.command} --model {chosen.model} --help")

    class Formatter(DefaultHelpFormatter):
        def _fill_text(self, text: str, width: int, indent: str) -> str:
            parts = (super(Formatter, self)._fill_text(part, width, indent) for part in text.split("\n\n"))
            return "\n\n".join(parts)

    sweeps = chosen.command == "sweep"
    parser = Parser(
        prog=f"latentia {chosen.command}",
        usage=USAGE[chosen.command],
        description=SWEEP if sweeps else fit.__doc__,
        formatter_class=Formatter,
        add_help=False,
        allow_abbrev=False,
    )
    run = parser.add_argument_group("run", description=_offer(chosen))
    run.add_argument("-h", "--help", action="store_true", help="Show this message; with --model M, M's options too.")
    run.add_argument("--out", type=str, default=None, help=OUT[chosen.command])
    run.add_argument(
        "--seed", type=Whole(0), default=0, help="Of every random number: the same seed, the same parameters."
    )
    run.add_argument("--importance_samples", type=Whole(1), default=1000, help="For the evaluation after the fit.")
    if chosen.learner == "Gradient":
        run.add_argument("--device", type=str, default=None, help="cpu or cuda, as --learner.device.")
    if sweeps:
        run.add_argument("--jobs", type=Whole(1), default=None, help="Fits at a time; one for each core if left out.")
    else:
        run.add_argument("--evaluation", type=bool, default=True, help="Evaluate and write a report after the fit.")
    _add_data(parser.add_argument_group("data"))
    if chosen.model:
        _add_options(parser, "model", chosen.model, MODELS)
        _add_options(parser, "learner", chosen.learner, LEARNERS)
    if chosen.objective:
        skip: set[str | int] = {"model", "batch", "estimator"}
        parser.add_function_arguments(OBJECTIVES[chosen.objective], "objective", skip=skip)
        _entitle(parser, "objective", chosen.objective)
    return parser


def _offer(chosen: argparse.Namespace) -> str:
    """The models, learners and objectives that there are, and which are chosen."""
    from latentia.run import LEARNERS, MODELS, OBJECTIVES

    offers = []
    for name, known in (("model", MODELS), ("learner", LEARNERS), ("objective", OBJECTIVES)):
        value = getattr(chosen, name)
        offers.append(f"--{name} {' | '.join(known)}" + (f" (chosen: {value})" if value else ""))
    return "; ".join(offers) + ("; --resume RUN goes on with an interrupted fit" if chosen.command == "fit" else "")


def _add_options(parser: Any, group: str, name: str, known: dict[str, Any]) -> None:
    import inspect

    skip = NOT_ON_THE_LINE & set(inspect.signature(known[name]).parameters)
    parser.add_class_arguments(known[name], group, skip=skip)
    _entitle(parser, group, name)


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
            "digits, sentences (built in), or a path: .npy .npz .csv .tsv .parquet .txt .jsonl idx idx.gz .mat, .dat "
            ".feat (bags of words), or a folder of images."
        ),
    )
    group.add_argument("--key", type=str, default=None, help="Name of the array in an .npz or .mat file.")
    group.add_argument("--columns", type=str, default=None, help="Columns of a table, as a,b,c.")
    group.add_argument("--kind", type=str, default="auto", help="auto, table, sequence, text or image.")
    group.add_argument("--vocabulary", type=str, default=None, help="For bags of words, a file with a word a line.")
    group.add_argument("--values", type=str, default="auto", help="auto, real, binary, levels or symbols.")
    group.add_argument(
        "--scale",
        type=str,
        default="auto",
        help=("auto, standard or none. Fitting happens in scaled units, log p(x) is in those of the data as given."),
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
    group.add_argument(
        "--weight", type=str, default=None, help="Column of a table that says how often each row counts; 0 = absent."
    )
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


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


# ------------------------------------------------------------------------------------------------------ after the fit


def evaluate(arguments: list[str]) -> None:
    """Measure a fitted model, on the run's held-out data or on other data."""
    parser = _Parser("evaluate", str(evaluate.__doc__))
    _add_run(parser)
    _add_other(parser, "instead of the run's own held-out data")
    parser.add_argument("--importance_samples", type=Whole(1), default=1000, help="K, where log p(x) is not exact")
    parser.add_argument("--naive", action="store_true", help="estimate log p(x) by samples from the prior too")
    parser.add_argument("--ais", action="store_true", help="estimate log p(x) by annealed importance sampling too")
    parser.add_argument("--ais_steps", type=Whole(1), default=1000, help="temperatures from start to posterior")
    parser.add_argument("--ais_chains", type=Whole(1), default=16, help="chains a datum")
    parser.add_argument("--ais_leapfrogs", type=Whole(1), default=10, help="gradients a move of a chain")
    parser.add_argument("--ais_start", choices=["prior", "posterior"], default="prior", help="where chains start")
    parser.add_argument("--ais_schedule", choices=["sigmoidal", "linear"], default="sigmoidal", help="of temperatures")
    parser.add_argument("--ais_data", type=Whole(1), default=100, help="anneal so many data at most, drawn at random")
    parser.add_argument("--ais_simulated", type=Whole(0), default=32, help="simulated data for the gap; 0 for none")
    parser.add_argument("--seed", type=Whole(0), default=0, help="of every random number")
    parser.add_argument("--device", help="cpu or cuda; that of the fit if left out and there")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parsed = parser.parse(arguments)
    annealing = _annealing(parser, parsed)
    run = _open(parsed)
    if parsed.data is None:
        options = {"annealing": annealing, "device": parsed.device}
        found = run.evaluate(parsed.importance_samples, parsed.naive, parsed.seed, **options)
    else:
        from latentia.evaluate import evaluate as measure
        from latentia.run import is_large

        options = {"importance_samples": parsed.importance_samples, "naive": parsed.naive, "seed": parsed.seed}
        options["annealing"] = annealing
        how = {name: getattr(parsed, name) for name in ("columns", "weight", "first")}
        data = run.other_stream(parsed.data, **how) if is_large(parsed.data) else _data(run, parsed)
        result = measure(run.model(parsed.device or run.device), data, progress=True, **options)
        result.evaluated_on = parsed.data
        found = result.to_json()
    print(json.dumps(found)) if parsed.json else _table(found)


def _annealing(parser: argparse.ArgumentParser, parsed: argparse.Namespace):
    """How to anneal, None where nobody asked for it."""
    given = {name[4:]: value for name, value in vars(parsed).items() if name.startswith("ais_")}
    if parsed.ais:
        from latentia.annealed import Annealing

        return Annealing(**given)
    for name, value in given.items():
        if value != parser.get_default(f"ais_{name}"):
            raise OptionError(f"--ais_{name} says how to anneal: add --ais")
    return None


def sample(arguments: list[str]) -> None:
    """Draw new data from a fitted model."""
    parser = _Parser("sample", str(sample.__doc__))
    _add_run(parser)
    parser.add_argument("--n", type=Whole(1), default=16, help="how many")
    parser.add_argument("--grid", type=_rows_by_columns, metavar="ROWSxCOLUMNS", help="a picture of so many images")
    parser.add_argument("--mean", action="store_true", help="the likelihood's mean instead of a draw from it")
    parser.add_argument("--seed", type=Whole(0), default=0, help="of every random number")
    _add_out(parser)
    parsed = parser.parse(arguments)
    from latentia.tasks import generate

    run = _open(parsed)
    if parsed.mean and run.schema.values == "symbols":
        raise OptionError("--mean: between two symbols there is none; leave it out to draw them")
    count = parsed.grid[0] * parsed.grid[1] if parsed.grid else parsed.n
    if parsed.grid:
        _showable(run, "--grid")
    x, _ = generate(run.model(), count, seed=parsed.seed, mean=parsed.mean)
    if parsed.grid:
        _sheet(run, x.unflatten(0, parsed.grid), Path(parsed.out) if parsed.out else run.path / "sample.png")
    else:
        _write(run, parsed, x, None, "sample")


def encode(arguments: list[str]) -> None:
    """What the model makes of each datum: posterior means, clusters, or the best path of states."""
    parser = _Parser("encode", str(encode.__doc__))
    _add_run(parser)
    _add_other(parser, "instead of the run's own held-out data")
    _add_out(parser)
    parsed = parser.parse(arguments)
    run = _open(parsed)
    from latentia.tasks import codes

    data = _data(run, parsed) if parsed.data else run.held_out
    path = Path(parsed.out) if parsed.out else run.path / f"encode{'.jsonl' if data.schema.kind in RAGGED else '.csv'}"
    codes.write(run.model(), data, path)
    _say(f"wrote {path}")


def interpolate(arguments: list[str]) -> None:
    """The way from one datum to another: decoded points on the line between their posterior means."""
    parser = _Parser("interpolate", str(interpolate.__doc__))
    _add_run(parser)
    _add_other(parser, "instead of the run's own held-out data")
    parser.add_argument("--start", type=Whole(1), default=1, help="number of the first datum, from 1")
    parser.add_argument("--end", type=Whole(1), default=2, help="number of the other datum, from 1")
    parser.add_argument("--steps", type=Whole(2), default=8, help="how many points, both ends among them")
    _add_out(parser)
    parsed = parser.parse(arguments)
    run = _open(parsed)
    from latentia.tasks import interpolate as between

    data = _data(run, parsed) if parsed.data else run.held_out
    for name in ("start", "end"):
        if not 1 <= getattr(parsed, name) <= len(data):
            raise OptionError(f"--{name} {getattr(parsed, name)}: there are data 1 to {len(data)}")
    model = run.model()
    pair = data.frozen(run.config.seed).batch([parsed.start - 1, parsed.end - 1], model.anchor.dtype)
    x = between(model, pair, steps=parsed.steps)
    _write(run, parsed, x.reshape(-1, *x.shape[2:]), None, "interpolate")


def complete(arguments: list[str]) -> None:
    """Fill in what is missing: empty cells and NaN, or what --hide takes away, whose log-probability is then known."""
    parser = _Parser("complete", str(complete.__doc__))
    _add_run(parser)
    _add_other(parser, "instead of the run's own held-out data")
    parser.add_argument("--hide", type=Hide, help="top, bottom, left or right of each image, or random:SHARE of values")
    parser.add_argument("--draw", action="store_true", help="one draw from p(missing | observed) instead of its mean")
    parser.add_argument(
        "--sweeps", type=Whole(2), default=200, help="Markov chain steps, where the posterior is not exact"
    )
    parser.add_argument(
        "--importance_samples", type=Whole(0), default=200, help="for log p(hidden | shown); 0 leaves it out"
    )
    parser.add_argument("--seed", type=Whole(0), default=0, help="of every random number")
    _add_out(parser)
    parsed = parser.parse(arguments)
    run = _open(parsed, "first")
    import torch

    from latentia.tasks import complete as fill
    from latentia.tasks import conditional_log_likelihood

    model = run.model()
    data = _chosen(run, parsed).frozen(parsed.seed)
    whole, ends = data.batch(), _ends(data, data.batch())
    seen = whole.observed if ends is None else whole.observed | ~ends
    if parsed.hide is None and bool(seen.all()):
        raise OptionError("nothing is missing in these data: leave cells empty, or hide a part of them by --hide")
    hidden = torch.zeros_like(seen) if parsed.hide is None else parsed.hide.mask(data, whole, parsed.seed)
    batch = type(whole).of(whole.x, whole.observed & ~hidden)._replace(context=whole.context)
    found = fill(model, batch, sweeps=parsed.sweeps, seed=parsed.seed)
    # between two symbols there is none, so for them a mean means nothing
    filled = found.draws[0] if parsed.draw or data.schema.values == "symbols" else found.mean
    dtype = torch.promote_types(filled.dtype, whole.x.dtype)
    x = torch.where(batch.observed, whole.x.to(dtype), filled.cpu().to(dtype))
    path = _write(run, parsed, x, ends, "complete")
    if parsed.hide is None:
        return
    _completions(run, whole, batch, found, path)
    if parsed.importance_samples:
        options = {"importance_samples": parsed.importance_samples, "seed": parsed.seed, "progress": True}
        _conditional(conditional_log_likelihood(model, data, _padded_to(hidden, data.x), **options), data)


def _completions(run, whole: Any, batch: Any, found: Any, path: Path) -> None:
    """A picture of the first few: the truth, what is shown, the mean, E[x | z] of four draws of z, and two of x."""
    import torch

    from latentia.report import pictures

    if not pictures.showable(run.schema):
        return
    few, draws = slice(0, 16), [*found.expected[:4].cpu().float(), *found.draws[:2].cpu().float()]
    x = whole.x.float()
    top = pictures.white(run.schema, x.numpy())
    given = torch.where(batch.observed, x, torch.full_like(x, 0.45 * top))
    rows = torch.stack([x, given, found.mean.cpu().float(), *draws])[:, few]
    rows = rows.reshape(*rows.shape[:2], *run.schema.event_shape)
    _sheet(run, rows, path.with_name(f"{path.stem}-sheet.png"), top)


def _error(values: Any) -> float:
    """The standard error of their mean, NaN of a single one."""
    return float(values.std()) / len(values) ** 0.5 if len(values) > 1 else math.nan


def _conditional(found: Any, data: Any) -> None:
    value, entries = found.value, found.entries.double()
    error = _error(value)
    noise = float(found.standard_error.square().sum().sqrt() / len(value))
    print(
        f"{len(value):,} data: log p(hidden | shown) = {float(value.mean()):.3f} ± {error:.3f} {data.schema.unit}\n"
        f"  {float(value.sum() / entries.sum()):.3f} nats a hidden value, {float(entries.mean()):,.1f} a datum\n"
        + (f"  of the ±, {noise:.3f} is that of importance sampling" if noise else "  exact")
    )


def traverse(arguments: list[str]) -> None:
    """What each active latent dimension does: it goes through its quantiles, the others stay at a datum's mean."""
    parser = _Parser("traverse", str(traverse.__doc__))
    _add_run(parser)
    _add_other(parser, "instead of the run's own held-out data")
    parser.add_argument("--start", type=Whole(1), default=1, help="number of the datum, from 1")
    parser.add_argument("--steps", type=Whole(2), default=9, help="how many quantiles, from 2 %% to 98 %%")
    parser.add_argument("--through", choices=["aggregate", "prior"], default="aggregate", help="the quantiles of which")
    parser.add_argument("--most", type=Whole(1), default=16, help="dimensions to show, the most active first")
    _add_out(parser)
    parsed = parser.parse(arguments)
    run = _open(parsed, "first")
    from latentia.report import pictures
    from latentia.tasks import traverse as along

    data = _chosen(run, parsed)
    if parsed.start > len(data):
        raise OptionError(f"--start {parsed.start}: there are data 1 to {len(data)}")
    options = {"steps": parsed.steps, "through": parsed.through, "dimensions": parsed.most, "seed": run.config.seed}
    found = along(run.model(), data, start=parsed.start - 1, **options)
    x = found.x
    if pictures.showable(run.schema) and (parsed.out is None or parsed.out.endswith(".png")):
        _sheet(run, x, Path(parsed.out) if parsed.out else run.path / "traverse.png")
    else:
        _write(run, parsed, x.reshape(-1, *x.shape[2:]), None, "traverse")
    for dimension, values in zip(found.dimensions.tolist(), found.values.tolist(), strict=True):
        print(f"dimension {dimension}: {values[0]:.2f} to {values[-1]:.2f}")


def cluster(arguments: list[str]) -> None:
    """The clusters of the data, p(k | x), and how well they agree with labels, which the model has never seen."""
    parser = _Parser("cluster", str(cluster.__doc__))
    _add_run(parser)
    _add_other(parser, "instead of the run's own held-out data")
    parser.add_argument("--labels", help="column of a table, or a file with a number for each datum, to compare with")
    _add_out(parser)
    parsed = parser.parse(arguments)
    run = _open(parsed, "first")
    from latentia.tasks import agreement, codes, responsibilities
    from latentia.tasks.cluster import classes

    data = _chosen(run, parsed, labels=parsed.labels)
    shares = responsibilities(run.model(), data)
    path = Path(parsed.out) if parsed.out else run.path / "cluster.csv"
    codes.write_clusters(shares, data, path)
    _say(f"wrote {path}")
    if data.labels is None:
        return
    found, named = shares.argmax(-1).cpu(), classes(data)
    print(
        f"{len(found):,} data in {len(found.unique())} clusters, {len(named.unique())} classes\n"
        f"accuracy {agreement.one_to_one(found, named):.4f} (each class to one cluster at most)\n"
        f"NMI {agreement.v_measure(found, named):.4f}, ARI {agreement.adjusted_rand_index(found, named):.4f}"
    )


def detect(arguments: list[str]) -> None:
    """What does not belong: rank the data by a score of oddness, in nats, the oddest first."""
    from latentia.tasks.detect import SCORES, WARNING

    parser = _Parser("detect", f"{detect.__doc__} {WARNING}")
    _add_run(parser)
    _add_other(parser, "instead of the run's own held-out data")
    parser.add_argument(
        "--score",
        choices=SCORES,
        default="likelihood",
        help="-log p(x); what per-datum inference gains on the encoder; or -log p(x) less the length when compressed",
    )
    parser.add_argument("--outliers", help="other data known to be odd: how well the score tells them apart")
    parser.add_argument("--labels", help="column of a table, or a file with a number for each datum: above 0 is odd")
    parser.add_argument("--importance_samples", type=Whole(1), default=200, help="K, where log p(x) is not exact")
    parser.add_argument("--steps", type=Whole(1), default=100, help="of per-datum inference, for the regret")
    parser.add_argument("--seed", type=Whole(0), default=0, help="of every random number")
    _add_out(parser)
    parsed = parser.parse(arguments)
    run = _open(parsed, "first")
    import torch

    from latentia.tasks import anomaly_scores, codes

    model, data = run.model(), _chosen(run, parsed, labels=parsed.labels).frozen(parsed.seed)
    name = parsed.data or ("held out" if len(run.parts.test) else "training")
    sets, odd = [(name, data)], _odd(parsed, data)
    if parsed.outliers:
        others = run.other(parsed.outliers, first=parsed.first).frozen(parsed.seed)
        sets.append((parsed.outliers, others))
        odd = torch.tensor([False] * len(data) + [True] * len(others))
    options = {name: getattr(parsed, name) for name in ("score", "importance_samples", "steps", "seed")}
    scores = torch.cat([anomaly_scores(model, part, **options, progress=True) for _, part in sets])
    path = Path(parsed.out) if parsed.out else run.path / "detect.csv"
    codes.write_scores(scores, sets, odd, path)
    _say(f"wrote {path}")
    order = scores.argsort(descending=True)
    _oddest(run, sets, order, path)
    _detected(parsed.score, scores, order, sets, odd)


def _odd(parsed: argparse.Namespace, data: Any) -> Any:
    """Which data are labelled as odd, where that is asked for."""
    if parsed.labels is None:
        return None
    if parsed.outliers:
        raise OptionError("--labels and --outliers both say what is odd: leave one out")
    import torch

    try:
        return torch.tensor([float(label) > 0 for label in data.labels])
    except ValueError as error:
        raise OptionError(f"--labels {parsed.labels}: {error}; odd data have a number above 0, the others 0") from error


def _oddest(run, sets: Sequence[tuple[str, Any]], order: Any, path: Path) -> None:
    """A picture of the oddest images, in rows, the oddest first."""
    import torch

    from latentia.report import pictures

    across = min(16, len(order))
    if pictures.showable(run.schema):
        shown = order[: len(order) // across * across][: 4 * across]
        x = torch.cat([part.x.float() for _, part in sets])[shown]
        _sheet(run, x.reshape(-1, across, *run.schema.event_shape), path.with_suffix(".png"))


def _detected(score: str, scores: Any, order: Any, sets: Sequence[tuple[str, Any]], odd: Any) -> None:
    from latentia.tasks import auroc
    from latentia.tasks.codes import places
    from latentia.tasks.detect import WARNING

    where = places(sets)
    print(f"{len(scores):,} data by {score}, nats, the larger the odder: median {float(scores.median()):.2f}")
    for i in order[:10].tolist():
        print(f"  {float(scores[i]):12.2f}  {where[i][0]}, row {where[i][1]}")
    if odd is not None:
        print(f"AUROC {auroc(scores[~odd], scores[odd]):.4f}: the chance that an odd datum is ranked above another")
    if score == "likelihood":
        print(WARNING)


def gap(arguments: list[str]) -> None:
    """What lies between log p(x) and the bound: what the encoder gives away, and what its family of posteriors does."""
    parser = _Parser("gap", str(gap.__doc__))
    _add_run(parser)
    _add_other(parser, "instead of the run's own held-out data")
    parser.add_argument("--steps", type=Whole(1), default=200, help="of per-datum inference, from the encoder's output")
    parser.add_argument("--lr", type=float, default=0.05, help="of these steps")
    parser.add_argument("--importance_samples", type=Whole(1), default=1000, help="for log p(x) and both bounds")
    parser.add_argument("--seed", type=Whole(0), default=0, help="of every random number")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parsed = parser.parse(arguments)
    run = _open(parsed, "first")
    from latentia.tasks import gaps

    data = _chosen(run, parsed)
    options = {name: getattr(parsed, name) for name in ("steps", "lr", "importance_samples", "seed")}
    found = gaps(run.model(), data, **options, progress=True)
    parts = ("log_marginal", "refined", "amortized", "approximation", "amortization")
    means = {name: float(getattr(found, name).mean()) for name in parts}
    errors = {name: _error(getattr(found, name)) for name in parts}
    if parsed.json:
        known = {name: error if math.isfinite(error) else None for name, error in errors.items()}
        print(json.dumps({"n": len(data), "units": data.schema.unit, "means": means, "standard_errors": known}))
        return
    labels = ("log p(x)", "ELBO, q refined", "ELBO, the encoder's q", "approximation gap", "amortization gap")
    print(f"{len(data):,} data; {data.schema.unit}; mean ± standard error over the data")
    for name, label in zip(parts, labels, strict=True):
        print(f"  {label:22} {means[name]:10.3f} ± {errors[name]:.3f}")


def report(arguments: list[str]) -> None:
    """Write the HTML report of a run again."""
    parser = _Parser("report", str(report.__doc__))
    _add_run(parser)
    run = _open(parser.parse(arguments))
    _say(f"report: {run.report()}")


RAGGED = ("sequence", "text")


class Hide:
    """What is taken away from data: a half of each image, or a share of all values at random."""

    def __init__(self, text: str):
        self.text, self.share = text, 0.0
        if text.startswith("random:"):
            with contextlib.suppress(ValueError):
                self.share = float(text.removeprefix("random:"))
        if text not in HALVES and not 0 < self.share < 1:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(HALVES)} or random:SHARE, such as 0.5")

    def mask(self, data: Any, batch: Any, seed: int) -> Any:
        """The shape of the batch's x, True = hidden."""
        import torch

        if self.share:
            generator = torch.Generator().manual_seed(seed)
            return (torch.rand(batch.x.shape, generator=generator) < self.share) & batch.observed
        if data.schema.kind != "image":
            raise OptionError(f"--hide {self.text} is for images, these data are {data.schema.kind}")
        hidden = torch.zeros_like(batch.x, dtype=torch.bool)
        height, width = batch.x.shape[1:3]
        rows = {"top": slice(0, height // 2), "bottom": slice(height // 2, None)}.get(self.text, slice(None))
        columns = {"left": slice(0, width // 2), "right": slice(width // 2, None)}.get(self.text, slice(None))
        hidden[:, rows, columns] = True
        return hidden


HALVES = ("top", "bottom", "left", "right")


def _padded_to(hidden: Any, x: Any) -> Any:
    """A mask of a batch that was cut to its longest sequence, for the data that it came from."""
    import torch

    if hidden.shape == x.shape:
        return hidden
    whole = torch.zeros_like(x, dtype=torch.bool)
    whole[:, : hidden.shape[1]] = hidden
    return whole


def _rows_by_columns(text: str) -> tuple[int, int]:
    try:
        rows, columns = map(int, text.lower().split("x"))
    except ValueError:
        rows = columns = 0
    if rows < 1 or columns < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows and of columns, such as 8x12")
    return rows, columns


def _showable(run, option: str) -> None:
    from latentia.report import pictures

    if not pictures.showable(run.schema):
        raise OptionError(f"{option} makes a picture, and these data are {run.schema.describe()}")


def _sheet(run, images: Any, path: Path, top: float | None = None) -> None:
    """Write images (rows, columns, ...) as one PNG file."""
    from latentia.data.files import atomic_write
    from latentia.report import pictures

    if path.suffix != ".png":
        raise OptionError(f"{path}: pictures are written as .png")
    images = images.reshape(*images.shape[:2], *run.schema.event_shape).detach().cpu().double().numpy()
    top = pictures.white(run.schema, images) if top is None else top
    atomic_write(path, pictures.sheet(images, top))
    _say(f"wrote {path}")


def _ends(data: Any, batch: Any) -> Any:
    """Up to where sequences go, for writing them; None for data without ends."""
    import torch

    if data.schema.kind not in RAGGED:
        return None
    steps = torch.arange(batch.x.shape[1]) < data.lengths.unsqueeze(-1)
    return steps.reshape(*steps.shape, *(1,) * (batch.x.ndim - 2)).expand_as(batch.x)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run directory, as `latentia fit` makes them")


def _add_other(parser: argparse.ArgumentParser, instead: str) -> None:
    parser.add_argument("--data", help=f"a built-in name or a path, {instead}")
    parser.add_argument("--key", help="name of the array in an .npz or .mat file")
    parser.add_argument("--columns", help="columns of a table, as a,b,c")
    parser.add_argument("--weight", help="column of a table that says how often each row counts")
    parser.add_argument("--first", type=Whole(1), help="only the first so many data")


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", help="file to write; its suffix says how (.csv .npy .png .txt .jsonl)")


def _open(parsed: argparse.Namespace, *of_any: str):
    """The run; options `of_any` are of any data, not only of --data."""
    if getattr(parsed, "data", "") is None:
        for name in ("key", "columns", "weight", "first"):
            if getattr(parsed, name) is not None and name not in of_any:
                raise OptionError(f"--{name} says how to read --data, which is not given")
    from latentia.run import Run

    return Run.open(Path(parsed.run))


def _data(run, parsed: argparse.Namespace):
    options = {name: getattr(parsed, name) for name in ("key", "columns", "weight", "first")}
    return run.other(parsed.data, **options)


def _chosen(run, parsed: argparse.Namespace, labels: str | None = None):
    """The data of --data, with labels where there are some, or the run's held-out data; the first so many."""
    if parsed.data is None:
        if labels is not None:
            raise OptionError("--labels belong to --data, which is not given")
        if not len(run.parts.test):
            _say(f"these are {run.evaluated_on}")
        return run.held_out.subset(slice(0, parsed.first))
    options = {name: getattr(parsed, name) for name in ("key", "columns", "weight", "first")}
    return run.other(parsed.data, **options, **({} if labels is None else {"labels": labels}))


def _write(run, parsed: argparse.Namespace, x: Any, mask: Any, verb: str) -> Path:
    suffix = {"image": ".png", "table": ".csv", "text": ".txt"}.get(run.schema.kind, ".jsonl")
    path = Path(parsed.out) if parsed.out else run.path / f"{verb}{suffix}"
    if run.schema.kind not in RAGGED:
        x = x.reshape(-1, *run.schema.event_shape)  # a mixture sees an image as one row
    run.schema.write(x, path, mask)
    _say(f"wrote {path}")
    return path


def _say(text: str) -> None:
    print(text, file=sys.stderr)


ROWS: list[tuple[str, str, Callable[[dict[str, Any]], Any]]] = [
    ("log p(x)", "log_marginal", lambda e: e["log_marginal_se"]),
    ("  by naive Monte Carlo", "naive_log_marginal", lambda e: e["naive_log_marginal_se"]),
    ("  by annealing", "annealed_log_marginal", lambda e: e["annealed_log_marginal_se"]),
    ("    more than above, same data", "annealed_gain", lambda e: e["annealed_gain_se"]),
    ("    gap on simulated data", "annealed_gap", lambda e: e["annealed_gap_se"]),
    ("ELBO", "elbo", lambda e: None),
    ("  reconstruction, -distortion", "reconstruction", lambda e: None),
    ("  KL to the prior, rate", "kl", lambda e: None),
    ("mutual information", "mutual_information", lambda e: None),
    ("  at most", "mutual_information_upper", lambda e: None),
    ("total correlation", "total_correlation", lambda e: None),
    ("KL of each dimension, summed", "dimension_wise_kl", lambda e: None),
    ("bits per dimension", "bits_per_dimension", lambda e: None),
    ("perplexity", "perplexity", lambda e: None),
    ("total log p(x)", "total_log_marginal", lambda e: None),
    ("AIC", "aic", lambda e: None),
    ("BIC", "bic", lambda e: None),
]


def _table(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for label, name, error in ROWS:
        if found.get(name) is not None:
            spread = error(found)
            table.add_row(label, f"{found[name]:.3f}" + (f" ± {spread:.3f}" if spread is not None else ""))
    table.add_row("active units", f"{found['active_units']} of {found['latent_units']}")
    how = found["method"]
    if found["importance_samples"]:
        how += f", K = {found['importance_samples']:,}, effective {found['effective_sample_size']:.1f}"
    table.add_row("method", how)
    if found["pareto_above"] is not None:
        table.add_row("Pareto k above 0.7", f"{found['pareto_above']:.1%} of the data")
    if found["annealed_how"]:
        effective = f", effective {found['annealed_effective_sample_size']:.1f}"
        table.add_row("annealing", found["annealed_how"] + effective)
    if found["naive_effective_sample_size"]:
        table.add_row("naive Monte Carlo", f"effective {found['naive_effective_sample_size']:.1f}")
    if found["criteria_on"]:
        table.add_row("AIC, BIC", f"of {found['criteria_on']}, {found['free_parameters']:,} parameters")
    console = Console()
    with console.capture() as drawn:  # on a broken pipe, rich itself would leave with status 1
        console.print(f"{found['n']:,} data, {found['evaluated_on']}; {found['units']}", highlight=False, markup=False)
        console.print(table)
        console.print(found["verdict"], highlight=False, markup=False)
    print(drawn.get(), end="")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "fit": fit,
    "sweep": sweep,
    "evaluate": evaluate,
    "sample": sample,
    "encode": encode,
    "interpolate": interpolate,
    "complete": complete,
    "traverse": traverse,
    "cluster": cluster,
    "detect": detect,
    "gap": gap,
    "report": report,
}
