"""`latentia compress` and `latentia decompress`: data as a file that the model makes short, and back."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from latentia.cli.parsing import Parser, Rate, Whole, say, tell
from latentia.cli.runs import add_other, add_run, add_text, chosen_data, opened
from latentia.errors import DataError

SHOWN = 8
"""Columns or words that take the most bits, of which so many are told."""


def compress(arguments: list[str]) -> None:
    """Data without loss in a file whose bits are the model's log-probabilities; how many that are, beside gzip."""
    parser = Parser("compress", str(compress.__doc__))
    add_run(parser)
    add_other(parser, "instead of the run's own held-out data")
    add_text(parser)
    parser.add_argument("--out", help="file to write, .ltz")
    parser.add_argument("--samples", type=Whole(1), default=1, help="K, of bits-back coding by importance samples")
    parser.add_argument(
        "--precision", type=Rate(), help="real values are rounded to multiples of it, in their own units"
    )
    parser.add_argument("--initial_bits", type=Whole(0), help="that bits-back coding may borrow; else what it needs")
    parser.add_argument("--seed", type=Whole(0), default=0, help="of what is binarized dynamically")
    parser.add_argument("--where", metavar="PICTURE", help="a .png of the bits of each pixel, of a model of images")
    parsed = parser.parse(arguments)
    run = opened(parsed, "first")
    from latentia.codec import general
    from latentia.data.files import atomic_write
    from latentia.tasks import compress as compressed

    data = chosen_data(run, parsed).frozen(parsed.seed)
    _lost(data, parsed)
    options = {name: getattr(parsed, name) for name in ("samples", "precision", "initial_bits", "seed")}
    found = compressed(run.model(), data, **options)
    path = Path(parsed.out) if parsed.out else run.path / "compressed.ltz"
    atomic_write(path, found.file)
    say(f"wrote {path}")
    _told(found, data, general.lengths(data))
    if parsed.where:
        _picture(run, found, Path(parsed.where))


def decompress(arguments: list[str]) -> None:
    """The data of a file that `latentia compress` wrote, by the same run."""
    parser = Parser("decompress", str(decompress.__doc__))
    parser.add_argument("file", metavar="FILE", help="as `latentia compress` writes them")
    parser.add_argument("--run", required=True, help="directory of the run that it was compressed with")
    parser.add_argument("--out", help="file to write; its suffix says how (.csv .npy .png .txt .jsonl)")
    parsed = parser.parse(arguments)
    run = opened(parsed)
    from latentia.data.writing import write
    from latentia.files import read_bytes
    from latentia.tasks import decompress as decompressed
    from latentia.tasks.compress import precision_of

    path = Path(parsed.file)
    try:
        raw = read_bytes(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    data = decompressed(run.model(), raw, str(path))
    suffix = {"table": ".csv", "text": ".txt", "sequence": ".jsonl"}.get(run.schema.kind, ".npy")
    out = Path(parsed.out) if parsed.out else path.with_suffix(suffix)
    values = run.schema.decode(data.x, data.mask, data.lengths)
    write(run.schema, _short(values, precision_of(raw)), out)
    say(f"wrote {out}: {len(data):,} data")


def _short(values: Any, precision: float | None) -> Any:
    """Without the digits that scaling and its inverse have left behind a multiple of a power of ten."""
    digits = 0 if precision is None else -math.log10(precision)
    if precision is None or digits != round(digits):
        return values
    return (
        [_rounded(part, int(digits)) for part in values] if isinstance(values, list) else _rounded(values, int(digits))
    )


def _rounded(values: Any, digits: int) -> Any:
    if values.dtype != object:
        return values.round(digits)
    short = values.copy()
    for place, value in enumerate(values.flat):
        short.flat[place] = round(value, digits) if isinstance(value, float) else value
    return short


def _lost(data: Any, parsed: argparse.Namespace) -> None:
    """Say what of the data the model does not see, and the file does not have."""
    if data.unknown:
        say(f"{data.unknown:.2%} of the words are <unk> to the model, and come back as that, whatever they were")
    if parsed.precision is not None and data.schema.values in ("real", "mixed"):
        say(f"real values are rounded to multiples of {parsed.precision:g}, and come back rounded")
    if data.labels is not None or data.weight is not None:
        say("labels and weights are not compressed")


def _told(found: Any, data: Any, others: dict[str, int]) -> None:
    """Bits by part, and beside those of general compressors."""
    from latentia.tasks.compress import unit

    count, per = found.values, unit(data.schema)
    tell(f"{found.data:,} data, {count:,} {per}s: {8 * len(found.file):,} bits, {len(found.file):,} bytes")
    tell(f"  message        {found.net:14,}  {found.net / count:8.4f} bits a {per}")
    for name, bits in found.parts.items():
        if name != "all" and len(found.parts) > 2:
            tell(f"    {name:12} {bits:14,.0f}  {bits / count:8.4f}")
    if found.borrowed:
        tell(f"  borrowed       {found.borrowed:14,}            there again after decoding")
    if found.side:
        tell(f"  ends and gaps  {found.side:14,}  {found.side / count:8.4f}")
    tell(f"  header         {found.header:14,}  {found.header / count:8.4f}")
    tell("general compressors, their headers among them:")
    for name, bits in others.items():
        tell(f"  {name:14} {bits:14,}  {bits / count:8.4f}")
    if data.schema.kind == "text":
        tell(f"the message has {found.net / max(others['uncompressed'] / 8, 1):.4f} bits a byte of the text")
    _dearest(found, data)


def _dearest(found: Any, data: Any) -> None:
    """The columns of a table, or the words of a text, that take the most bits."""
    from latentia.tasks.compress import dearest

    if shares := dearest(found, data.schema, SHOWN):
        told = ", ".join(f"{name} {share:.1%}" for name, share in shares)
        tell(f"where the bits of x go, by {'words' if data.schema.kind == 'text' else 'columns'}: {told}")


def _picture(run, found: Any, path: Path) -> None:
    """The bits of each pixel, the dearest one white."""
    from latentia.data.files import atomic_write
    from latentia.data.grids import sheet

    if run.schema.kind != "image":
        raise DataError(f"--where draws pixels, and {run.config.model} was fitted on {run.schema.describe()}")
    bits = found.content.columns.reshape(run.schema.event_shape) / found.data
    atomic_write(path, sheet(bits[None, None].numpy(), float(bits.max())))
    say(f"wrote {path}: white is {float(bits.max()):.3f} bits")
