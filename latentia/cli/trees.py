"""The command that parses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentia.cli import catalogue
from latentia.cli.parsing import Parser, say, tell
from latentia.cli.runs import add_other, add_out, add_run, chosen_data, opened
from latentia.errors import OptionError


def parse(arguments: list[str]) -> None:
    """The tree of a sentence, or of all sentences of the data with how well they agree with those of a treebank, which
    the model has never seen; of a model of logical forms the form that a sentence means, and how probable it is."""
    parser = Parser("parse", str(parse.__doc__))
    add_run(parser)
    parser.add_argument(
        "sentence", nargs="*", help="a sentence, its words apart; those of the data where there is none"
    )
    add_other(parser, "instead of the run's own held-out data")
    parser.add_argument(
        "--decode",
        choices=catalogue.constant("tasks/parse.py", "DECODERS"),
        default="risk",
        help="the tree of which most constituents are expected to be right, or the most probable one",
    )
    add_out(parser)
    parsed = parser.parse(arguments)
    if parsed.sentence and parsed.data is not None:
        raise OptionError("a sentence and --data: give one or the other")
    run = opened(parsed, "first")
    from latentia.data.files import atomic_write
    from latentia.tasks import parse as trees_of
    from latentia.tasks.meanings import Means
    from latentia.tasks.parse import worded

    if isinstance(run.model(), Means):
        _tell_meanings(run, parsed)
        return
    if parsed.sentence:
        (tree,) = trees_of(run.model(), run.sentence(" ".join(parsed.sentence)), decode=parsed.decode)
        # a word that is in no vocabulary has its place in the tree all the same
        words = " ".join(parsed.sentence).split()
        tell(str(worded(tree, words) if len(words) == len(tree.words) else tree))
        return
    data = chosen_data(run, parsed)
    trees = trees_of(run.model(), data, decode=parsed.decode)
    path = Path(parsed.out) if parsed.out else run.path / "parse.txt"
    atomic_write(path, ("\n".join(map(str, trees)) + "\n").encode())
    say(f"wrote {path}")
    if data.trees is not None:
        _tell_agreement(trees, data)


def _tell_meanings(run: Any, parsed: Any) -> None:
    from latentia.data.files import atomic_write
    from latentia.data.readers import is_table, open_table
    from latentia.tasks.meanings import matched, meanings

    if parsed.sentence:
        (found,) = meanings(run.model(), run.sentence(" ".join(parsed.sentence)))
        for form, log_prob in found:
            tell(f"{math.exp(log_prob):.3f}  {form}")
        return
    column = run.config.data.labels
    table = open_table(parsed.data) if parsed.data and is_table(parsed.data) else None
    told = table is not None and column in table.names
    data = chosen_data(run, parsed, labels=column if told else None)
    found = meanings(run.model(), data)
    path = Path(parsed.out) if parsed.out else run.path / "parse.txt"
    lines = [f"{math.exp(best[0].log_prob):.3f}\t{best[0].form}\n" for best in found]
    atomic_write(path, "".join(lines).encode())
    say(f"wrote {path}")
    if data.labels is not None and (truth := matched(found, data)):
        right = sum(truth)
        tell(f"{len(truth):,} sentences with a form: {right:,} found whole ({100 * right / len(truth):.1f} %)")


def _tell_agreement(trees: Sequence[Any], data: Any) -> None:
    from latentia.tasks.parse import agreement, gold

    found = agreement(trees, gold(data))
    tell(
        f"{found.sentences:,} sentences; unlabelled spans of two words or more, the whole sentence's left out\n"
        f"sentence F1 {100 * found.sentence:.1f} (1 or 0 for a sentence that has no such span), corpus F1 "
        f"{100 * found.corpus:.1f}: precision {100 * found.precision:.1f}, recall {100 * found.recall:.1f}"
    )
    for label, (share, count) in list(found.labels.items())[:8]:
        tell(f"  {label:6} {100 * share:5.1f} % of {count:,} found")
