"""The command `latentia`: from data to a trained model, an honest evaluation and a report."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

from latentia.cli.compressing import compress, decompress
from latentia.cli.detecting import detect
from latentia.cli.fitting import fit, sweep
from latentia.cli.measuring import evaluate
from latentia.cli.parsing import like, say, tell
from latentia.cli.strings import align, decode
from latentia.cli.trees import parse
from latentia.cli.uses import cluster, complete, encode, gap, interpolate, report, sample, show, traverse
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
  align        where in its context each symbol comes from: word by word
  decode       what a recording says, or a sentence in the other language, by its context
  parse        the trees of sentences, and how well they agree with those of a treebank
  detect       what does not belong: a score of oddness for each datum
  compress     data without loss in a file as short as the model is good, beside gzip and others
  decompress   the data of such a file, by the same run
  gap          what the encoder gives away of the bound, and what its family of posteriors does
  show         what the model of a run says: clusters, states, topics, in the units of the data
  report       write the HTML report of a run again

examples
  latentia fit --model VAE --data digits --out runs/digits
  latentia fit --model GaussianMixture --data table.csv --columns height,weight --model.components 3
  latentia fit --model HMM --data sentences --model.states 45
  latentia sweep --model GaussianMixture --data table.csv --model.components 1:10
  latentia evaluate runs/digits --importance_samples 1000
  latentia complete runs/digits --hide bottom --first 12
  latentia detect runs/digits --score regret --outliers odd.npy
  latentia compress runs/digits --data digits --out digits.ltz
  latentia decompress digits.ltz --run runs/digits --out digits.npy
"""


FULL = ("allocate memory", "out of memory", "calculation overflowed", "multiplication overflow", "Invalid shape")
NO_MEMORY = "out of memory: a smaller model, a lower --learner.batch_size or --first N data need less"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit: 0 done, 2 something that its user can mend, 130 interrupted."""
    status = 130
    try:
        _prepare()
        status = _status(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        with contextlib.suppress(KeyboardInterrupt):  # once more, out of impatience
            say("latentia: interrupted; the same command goes on from the last checkpoint")
    sys.exit(status)


def _status(arguments: list[str]) -> int:
    """Run the command. What goes wrong through no fault of the code is said in one line."""
    try:
        _run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return 0
    except LatentiaError as error:
        return _fail(str(error))
    except BrokenPipeError:
        _drop_output()  # the reader has left (`latentia ... | head`): nobody to tell
        return 0
    except OSError as error:
        _drop_output()
        return _fail(f"{error.filename or 'a file'}: {error.strerror or error}; what was saved before is still there")
    except UnicodeError as error:
        return _fail(f"a file name, column or word is no Unicode text ({error}): rename it")
    except MemoryError:
        return _fail(NO_MEMORY)
    except RuntimeError as error:
        # torch has no exception of its own for a full memory on the CPU
        if not any(words in str(error) for words in FULL):
            raise
        return _fail(NO_MEMORY)


def _prepare() -> None:
    """Make standard output and error such that whatever is said can be said."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file to be opened would become what is printed to
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:  # print would take standard output instead
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # for as long as the process lives
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal of ASCII, a name that is no Unicode
    warnings.showwarning = lambda message, *_, **__: say(f"latentia: warning: {message}")


def _drop_output() -> None:
    """Send the rest of standard output nowhere, where it cannot be written: python would try again at its end."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _fail(message: str) -> int:
    who = f"process {os.environ['RANK']}: " if os.environ.get("RANK", "0") != "0" else ""
    say(f"latentia: error: {who}{' '.join(message.split())}")
    return 2


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        tell(HELP)
        return
    if arguments[0] == "--version":
        import latentia

        tell(f"latentia {latentia.__version__}")
        return
    name, *rest = arguments
    if name not in COMMANDS:
        raise OptionError(f"unknown command {name!r}{like(name, COMMANDS)}; the commands are {', '.join(COMMANDS)}")
    COMMANDS[name](rest)


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
    "align": align,
    "decode": decode,
    "parse": parse,
    "detect": detect,
    "compress": compress,
    "decompress": decompress,
    "gap": gap,
    "report": report,
    "show": show,
}
