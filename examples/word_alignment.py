"""A dictionary from sentences that mean the same: IBM Model 1 and the alignment HMM on a made-up language.

Numbers in English, and in a language that says the ones before the tens ("four and twenty"), from which nobody has told
which word is which.
"""

import itertools

from latentia.data import load
from latentia.learners import EM
from latentia.models import HMMAlignment, IBMModel1

ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
EINER = ["eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]
ZEHNER = ["zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"]


def main() -> None:
    pairs = list(itertools.product(range(len(TENS)), range(len(ONES))))
    english = [[TENS[t], ONES[o]] for t, o in pairs]
    german = [[EINER[o], "und", ZEHNER[t]] for t, o in pairs]
    data = load(german, context=english)
    assert data.context is not None
    sizes = {name: data.schema.sizes()[name] for name in ("symbols", "source_symbols")}
    words, source = data.schema.vocabulary, data.context.schema.vocabulary
    for kind in (IBMModel1, HMMAlignment):
        model = kind(**sizes).double()
        EM(steps=60, tol=1e-7, progress=False).fit(model, data)
        batch = data.batch()
        value = float(model.posterior(batch).log_partition.detach().mean())
        best = model.lexicon.probs.argmax(-1).tolist()
        right = sum(
            words[best[source.index(one)]] == other for one, other in zip(ONES + TENS, EINER + ZEHNER, strict=True)
        )
        print(f"{kind.__name__}: log p(German | English) = {value:.3f} nats a number, {right} of 17 words translated")
    z = model.posterior(data.batch([3])).mode[0].argmax(-1)
    said = zip(data.decoded()[3], z.tolist(), strict=True)
    given = data.context.decoded()[3]
    print("  ", ", ".join(f"{word} from {'nowhere' if k % 2 else given[k // 2]}" for word, k in said))


if __name__ == "__main__":
    main()
