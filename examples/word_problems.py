"""Word problems of arithmetic and the sums that they ask for: a few of them with their sum, and many without.

    python examples/word_problems.py [EPOCHS]

A problem is a sentence, its meaning a form such as ( minus five two ). The grammar of forms is told from those that are
known. First the parser learns from them alone; then from the problems without a form too, by the forms that it finds
for these, of which those that explain the sentence well are made more probable.
"""

import random
import sys
from dataclasses import replace
from functools import partial

from latentia import gradients
from latentia.data import load
from latentia.distributions.forms import read_form
from latentia.learners import Gradient
from latentia.models import StructVAE
from latentia.objectives import semi_supervised
from latentia.tasks import meanings

KNOWN = 16
"""Problems whose sum is known."""
NUMBERS = ["two", "three", "four", "five", "six", "seven"]
NAMES, THINGS = ["tom", "ann", "eve"], ["apples", "cards", "books"]
SAYINGS = {
    "plus": ["{n} has {a} {t} and gets {b} more", "{n} finds {a} {t} and then {b}", "{a} {t} and {b} {t} together"],
    "minus": ["{n} has {a} {t} and loses {b}", "{n} gives away {b} of {a} {t}", "of {a} {t} {b} are gone"],
    "times": ["{a} bags of {b} {t} each", "{n} has {a} boxes with {b} {t}", "{b} {t} for each of {a} friends"],
}


def problem(chance: random.Random) -> tuple[str, str]:
    sign = chance.choice(list(SAYINGS))
    a, b = chance.sample(NUMBERS, 2)
    words = chance.choice(SAYINGS[sign]).format(n=chance.choice(NAMES), t=chance.choice(THINGS), a=a, b=b)
    return words, f"( {sign} {a} {b} )"


def main() -> None:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    chance = random.Random(0)
    sentences, forms = zip(*(problem(chance) for _ in range(260)), strict=True)
    told = [form if i < KNOWN else "" for i, form in enumerate(forms)]
    data = load(list(sentences), labels=told, min_count=1, ends=True, forms="").labelled()
    labelled, train, held_out = (data.subset(part) for part in (slice(0, KNOWN), slice(0, 160), slice(160, None)))
    sizes = {name: data.schema.sizes()[name] for name in ("symbols", "end", "grammar", "copies", "actions")}
    model = StructVAE(**sizes, hidden=32)

    def right() -> str:
        found = meanings(model, held_out)
        good = [best[0].form == read_form(form) for best, form in zip(found, forms[160:], strict=True)]
        return f"{100 * sum(good) / len(good):.0f} % of {len(good)} held-out problems understood"

    alone = Gradient(semi_supervised, epochs=3 * epochs, batch_size=10, lr=1e-2, progress=False)
    alone.fit(model, labelled)
    print(f"by {KNOWN} problems with their sum: {right()}")
    estimator = gradients.Searched(gradients.SourceLanguageModel(16))
    objective = partial(semi_supervised, unlabelled=0.2, samples=3, beta=0.1, estimator=estimator)
    more = replace(alone, objective=objective, epochs=max(epochs - 2, 1), batch_size=32, lr=5e-3, fresh=False)
    more.fit(model, train)
    print(f"and by {160 - KNOWN} without: {right()}")
    print(sentences[160], "->", *(f"{best.form} {best.log_prob:.2f} nats" for best in meanings(model, held_out)[0][:1]))


if __name__ == "__main__":
    main()
