"""The command `latentia`: from data to a trained model, an honest evaluation and a report."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

from latentia.cli.fitting import fit, sweep
from latentia.cli.measuring import evaluate
from latentia.cli.parsing import like
from latentia.cli.uses import cluster, complete, detect, encode, gap, interpolate, report, sample, traverse
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


NO_MEMORY = "out of memory: a smaller model, a lower --learner.batch_size or --first N data need less"


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
    "detect": detect,
    "gap": gap,
    "report": report,
}
