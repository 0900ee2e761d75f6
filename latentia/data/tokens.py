"""What a text is made of: words, bytes, or subwords that are learned from the training texts.

A text comes as words, separated by white space; bytes and subwords are those of the words with one space between, so
that how much white space there was is the one thing that is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from latentia.errors import DataError, OptionError

TOKENS = ("words", "bytes", "subwords")
UNKNOWN, END = "<unk>", "</s>"
SIZE = 8000
"""Subwords, where nothing else is asked for."""
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


def learn(
    texts: Sequence[Sequence[str]], kind: str, counts: Callable[[], Counter[str]], min_count: int, most: int | None
) -> tuple[tuple[str, ...], str]:
    """The vocabulary of these texts, "<unk>" first, and what cuts subwords, as JSON ("" for words and bytes).

    Args:
        kind: one of `TOKENS`; counts: how often each word counts.
        min_count, most: rarer words are "<unk>", and so are those beyond so many; of subwords, how many are learned.

    Raises:
        OptionError: another kind, fewer than two symbols, or subwords without the package `tokenizers`.
        DataError: not one word is common enough.
    """
    if kind not in TOKENS:
        raise OptionError(f"tokens={kind!r}: choose one of {', '.join(TOKENS)}")
    if most is not None and most < 2:
        raise OptionError(f"max_vocabulary={most}: it must be 2 or more, one of them for {UNKNOWN}")
    if kind == "bytes":
        if most is not None:
            raise OptionError(f"max_vocabulary={most}: there are 256 bytes, and none is left out: leave it away")
        return (UNKNOWN, *BYTES), ""
    if kind == "subwords":
        return _learn_subwords((" ".join(words) for words in texts), most or SIZE)
    found = counts()
    found.pop(UNKNOWN, None)
    common = sorted((word for word in found if found[word] >= min_count), key=lambda word: (-found[word], word))
    if not common:
        raise DataError(f"no word occurs {min_count} times: lower min_count")
    return (UNKNOWN, *(common if most is None else common[: most - 1])), ""


def _package():
    try:
        import tokenizers  # type: ignore[reportMissingImports]
    except ImportError as error:
        raise OptionError(
            "subwords need the package tokenizers: pip install tokenizers, or use words or bytes"
        ) from error
    return tokenizers


def _learn_subwords(texts: Iterable[str], size: int) -> tuple[tuple[str, ...], str]:
    """Byte pair encoding of bytes (Sennrich et al. 2016; Radford et al. 2019): every text can be written with it."""
    tokenizers = _package()
    cutter = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=UNKNOWN))
    cutter.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    cutter.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[UNKNOWN],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    cutter.train_from_iterator(texts, trainer)
    number = cutter.get_vocab()
    return tuple(sorted(number, key=number.__getitem__)), cutter.to_str()


@cache
def _cutter(saved: str):
    try:
        return _package().Tokenizer.from_str(saved)
    except OptionError:
        raise
    except Exception as error:  # the package raises Exception itself
        raise DataError(f"the tokenizer of the schema is damaged ({error}): fit again") from error


def cut(words: Sequence[str], kind: str, saved: str) -> list[str]:
    """The tokens of a text of these words."""
    if kind == "words":
        return list(words)
    text = " ".join(words)
    return [BYTES[byte] for byte in text.encode()] if kind == "bytes" else _cutter(saved).encode(text).tokens


def join(tokens: Sequence[str], kind: str, saved: str) -> list[str]:
    """The words of a text of these tokens: what `cut` has cut; bytes that are no UTF-8 show as such."""
    if kind == "words":
        return list(tokens)
    if kind == "bytes":
        # the unknown symbol is no byte
        return bytes(_BYTE.get(token, 0x3F) for token in tokens).decode("utf-8", "replace").split()
    cutter = _cutter(saved)
    numbers = [cutter.token_to_id(token) for token in tokens]
    return cutter.decode([number for number in numbers if number is not None], skip_special_tokens=False).split()


_BYTE = {name: byte for byte, name in enumerate(BYTES)}
