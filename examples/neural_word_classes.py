"""Word classes by networks: a neural hidden Markov model on the built-in English text, beside an ordinary one.

    python examples/neural_word_classes.py [STATES]

Both have as many states, and log p(x) is exact in both. The ordinary model has a free table of words for each state and
is learned by EM; the neural one writes its tables from embeddings and is learned by the gradient. Validation sentences
choose the smoothing of the one and end the fit of the other; what is held out is seen once, at the end.
"""

import sys
import warnings

from latentia.data import load
from latentia.evaluate import evaluate
from latentia.learners import EM, Gradient
from latentia.models import HMM, NeuralHMM
from latentia.objectives import exact


def main() -> None:
    states = int(sys.argv[1]) if len(sys.argv) > 1 else 48
    # a word seen once is "<unk>"
    data = load("sentences", min_count=2)
    rest, held_out = data.split(0.1)
    train, validation = rest.split(0.1)
    words, symbols = data.schema.vocabulary, data.schema.levels
    assert symbols is not None
    print(
        f"{len(train)} sentences to learn from, {len(validation)} to stop by, {len(held_out)} held out, {symbols} words"
    )

    fits = []
    for smoothing in (0.03, 0.1, 0.3):
        model = HMM(symbols=symbols, states=states, smoothing=smoothing).double()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 60 steps are enough for perplexity to settle
            EM(steps=60, progress=False).fit(model, train)
        fits.append((evaluate(model, validation).log_marginal, model))
    ordinary = max(fits, key=lambda fit: fit[0])[1]
    neural = NeuralHMM(symbols=symbols, states=states, hidden=64, dropout=0.3)
    learner = Gradient(exact, epochs=40, batch_size=32, lr=5e-3, schedule="cosine", patience=5, progress=False)
    learner.fit(neural, train, validation=validation)

    emission = neural.emission_log_probs
    print("a state of the neural model, its commonest words")
    for state in range(min(states, 12)):
        print(f"  {state:2d}  " + " ".join(words[i] for i in emission[state].topk(8).indices.tolist()))
    for name, model in (("HMM", ordinary), ("NeuralHMM", neural)):
        found = evaluate(model, held_out)
        print(f"{name}: held-out perplexity {found.perplexity:.1f} over {found.divided_by}")


if __name__ == "__main__":
    main()
