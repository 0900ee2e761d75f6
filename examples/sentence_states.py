"""Word classes from raw sentences: a hidden Markov model on the built-in English text.

    python examples/sentence_states.py [STATES]

Nobody tells the model what a noun is: states are found because words of a class follow words of another.
"""

import sys
import warnings

from latentia.data import load
from latentia.distributions.emissions import CategoricalEmissions
from latentia.evaluate import evaluate
from latentia.learners import EM
from latentia.models import HMM
from latentia.tasks import decode_path


def main() -> None:
    states = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    # a word seen once is "<unk>"
    data = load("sentences", min_count=2)
    train, held_out = data.split(0.1)
    words, symbols = data.schema.vocabulary, data.schema.levels
    assert symbols is not None
    print(f"{len(train)} sentences to learn from, {len(held_out)} held out, {symbols} words")

    model = HMM(symbols=symbols, states=states).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 40 steps are enough to see the classes, though not to converge
        EM(steps=40, progress=False).fit(model, train)

    assert isinstance(model.emissions, CategoricalEmissions)
    probs, following = model.emissions.probs, model.transition.argmax(1)
    print("a state, its commonest words, the state that mostly follows")
    for state in range(states):
        best = " ".join(words[i] for i in probs[state].topk(8).indices.tolist())
        print(f"  {state:2d}  {best}  -> {int(following[state])}")

    found = evaluate(model, held_out)
    print(f"held out: {found.log_marginal:.2f} ± {found.log_marginal_se:.2f} {found.units}")
    print(f"perplexity {found.perplexity:.1f} over {found.divided_by}")

    path, lengths = decode_path(model, held_out.subset([0]))
    sentence = held_out.subset([0]).decoded()[0]
    tagged = zip(sentence, path[0, : int(lengths[0])].tolist(), strict=True)
    print("best path:", " ".join(f"{word}/{state}" for word, state in tagged))


if __name__ == "__main__":
    main()
