"""Every example runs, and says what its docstring promises."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
GEYSER = ROOT.parent / "shared" / "data" / "tabular" / "geyser.csv"


@pytest.fixture
def run(script):
    return lambda name, *arguments: script(ROOT / "examples" / name, *arguments)


def test_every_example_has_a_test_here():
    text = Path(__file__).read_text("utf-8")
    assert EXAMPLES
    assert not [path.name for path in EXAMPLES if f'run("{path.name}"' not in text]


def test_a_text_vae_with_a_context_is_a_page_of_code(run):
    text = run("conditional_sentences.py")
    assert "check_model ran 13 checks" in text
    found = float(re.search(r"log p\(x \| first word\) = (-?[\d.]+) nats", text)[1])
    assert -40 < found < -10


def test_groups_of_customers_are_found_and_by_gaussians_are_not(run):
    text = run("customers.py")
    mixed, numbers = (float(value) for value in re.findall(r"adjusted Rand index ([\d.]+)", text))
    assert mixed >= 0.85
    assert numbers <= 0.7


def totals(text):
    return [float(number) for number in re.findall(r"sum of log p\(x\) = (-?[\d.]+)", text)]


def test_old_faithful_finds_the_published_maximum(run):
    if not GEYSER.exists():
        pytest.skip("geyser.csv is not here")
    values = totals(run("old_faithful.py", GEYSER, 5))
    assert values == sorted(values)
    assert values[1] == pytest.approx(-1130.264, abs=1e-3)


def test_old_faithful_without_its_file_says_so(run, tmp_path):
    text = run("old_faithful.py", tmp_path / "geyser.csv", 3)
    assert "synthetic" in text
    values = totals(text)
    assert len(values) == 4
    # two clusters were put in: the second component gains much, the third next to nothing
    assert values[1] - values[0] > 10 * (values[2] - values[1])


def test_sentence_states_find_word_classes(run):
    text = run("sentence_states.py", 8)
    perplexity = float(re.search(r"perplexity ([\d.]+)", text)[1])
    vocabulary = int(re.search(r"(\d+) words", text)[1])
    assert 50 < perplexity < vocabulary / 2
    classes = re.findall(r"^ +\d+  (.+)  -> \d+$", text, re.MULTILINE)
    assert len(classes) == 8
    # articles follow the same words, so they are in one class
    assert any({"the", "a"} <= set(words.split()) for words in classes)


def test_digits_vae_measures_and_draws(run, tmp_path):
    text = run("digits_vae.py", tmp_path / "completion.png")
    elbo = float(re.search(r"ELBO (-[\d.]+)", text)[1])
    marginal = float(re.search(r"log p\(x\) (-[\d.]+)", text)[1])
    # independent Bernoullis with each pixel's own frequency have -27.1 nats
    assert -25.5 < elbo <= marginal
    assert (tmp_path / "completion.png").read_bytes().startswith(b"\x89PNG")


def test_custom_model_passes_the_checks_and_clusters_digits(run):
    text = run("custom_model.py")
    assert "check_em_ascends" in text
    assert "check_normalised" in text
    assert int(re.search(r"(\d+)% of held-out", text)[1]) >= 70


def test_digits_clusters_compares_by_log_p(run):
    text = run("digits_clusters.py")
    values = [float(number) for number in re.findall(r"log p\(x\) +(-[\d.]+)", text)]
    assert len(values) == 4
    # the same means with a variance each, then with one for each pixel, then with correlations
    assert values == sorted(values)
    assert float(re.search(r"k-means.*for ([\d.]+)%", text)[1]) > 60


def test_sklearn_pipeline_chooses_the_number_of_clusters_by_held_out_data(run):
    text = run("sklearn_pipeline.py")
    one, two, three, _ = (float(score) for score in re.search(r" diag((?:  +-[\d.]+){4})", text)[1].split())
    # three cultivars: a second and a third cluster gain a nat each
    assert one + 1 < two < three - 1
    assert int(re.search(r"best: (\d) clusters", text)[1]) in (3, 4)
    assert float(re.search(r"Rand index with the cultivars: ([\d.]+)", text)[1]) > 0.5


def test_next_eruption_is_forecast_better_with_memory(run):
    text = run("next_eruption.py")
    memory, without = map(float, re.search(r"HMM (-?[\d.]+) nats, mixture without memory (-?[\d.]+)", text).groups())
    assert memory > without + 0.1
    forecast, mean = map(float, re.search(r"forecast: ([\d.]+) min, of the mean duration ([\d.]+)", text).groups())
    assert forecast < 0.9 * mean


def test_digit_bits_choose_a_number_of_clusters_and_complete_images(run):
    text = run("digit_bits.py")
    values = [float(number) for number in re.findall(r"validation images (-[\d.]+)", text)]
    assert len(values) == 5
    assert max(values) - values[0] > 3
    # independent bits have -27.4 nats
    assert float(re.search(r"of test images (-[\d.]+)", text)[1]) > -24
    given, alone = (float(number) for number in re.findall(r": ([\d.]+)%", text))
    assert given > alone + 3


def test_a_coin_and_a_normal_number_are_told_at_rates_near_the_least(run):
    text = run("coin_with_errors.py")
    rows = re.findall(r"^  (?:coin|normal) +[\d.]+ ([\d.]+) ([\d.]+) ([\d.]+) (-?[\d.]+)", text, re.MULTILINE)
    assert len(rows) == 5
    for _, rate, least, lower in (map(float, row) for row in rows):
        assert least - 0.02 < rate < 1.02 * least + 0.01
        assert lower < rate + 0.1


def test_compressed_digits_are_shorter_than_by_general_compressors(run, tmp_path):
    text = run("compressed_digits.py", tmp_path / "where.png")
    bits = {name.strip(): float(value) for name, value in re.findall(r"^  (.{24}) ([\d.]+)", text, re.MULTILINE)}
    others = min(bits[name] for name in ("gzip", "bz2", "xz", "PNG", "WebP"))
    assert bits["mixture"] < others
    assert bits["VAE, ten samples"] < bits["VAE"] < others
    assert bits["uncompressed"] == pytest.approx(1, abs=1e-3)
    assert (tmp_path / "where.png").read_bytes().startswith(b"\x89PNG")


def test_sentence_topics_predict_better_than_one_topic(run):
    text = run("sentence_topics.py")
    one, several = (float(number) for number in re.findall(r"held-out perplexity ([\d.]+)", text))
    assert several < 0.97 * one
    topics = re.findall(r"^ +([\d.]+)%  (.+)$", text, re.MULTILINE)
    assert len(topics) == 8
    assert sum(float(weight) for weight, _ in topics) == pytest.approx(100, abs=0.5)


@pytest.mark.slow
def test_bags_of_words_foretell_the_other_half(run):
    text = run("bags_of_words.py", 8)
    found = dict(re.findall(r"^(.+): the other half of a sentence has perplexity (\d+)$", text, re.MULTILINE))
    assert found.keys() == {"LDA", "continuous naive Bayes", "NVDM", "ProdLDA"}
    assert all(50 < float(perplexity) < 600 for perplexity in found.values())
    assert len(re.findall(r"^  (?: \S+){6}$", text, re.MULTILINE)) == 6


@pytest.mark.slow
def test_digit_ladder_has_a_say_in_both_layers(run, tmp_path):
    text = run("digit_ladder.py", tmp_path / "layers.png")
    one, two = (float(value) for value in re.findall(r"held-out log p\(x\) (-[\d.]+)", text))
    # independent Bernoullis with each pixel's own frequency have -27.1 nats
    assert min(one, two) > -24.5
    assert [float(kl) > 0.3 for kl in re.findall(r"KL ([\d.]+)", text)] == [True, True]
    kept, spread = map(float, re.search(r"by ([\d.]+) on average; z2 and z1 together by ([\d.]+)", text).groups())
    assert 0.02 < kept < 0.95 * spread
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_digit_rows_are_better_described_by_chains_that_share_the_work(run):
    text = run("digit_rows.py")
    ordinary, mean_field, exact = (float(value) for value in re.findall(r"held-out image ([\d.]+) nats", text))
    assert ordinary < mean_field < exact
    bound, gap = map(float, re.search(r"bound ([\d.]+) nats, ([\d.]+) below", text).groups())
    assert gap > 0
    assert bound + gap == pytest.approx(mean_field, abs=0.011)


@pytest.mark.slow
def test_neural_word_classes_predict_better_than_tables(run):
    text = run("neural_word_classes.py")
    ordinary, neural = (float(value) for value in re.findall(r"held-out perplexity ([\d.]+)", text))
    assert neural < 0.95 * ordinary
    classes = re.findall(r"^ +\d+  (.+)$", text, re.MULTILINE)
    assert len(classes) == 12
    assert any({"the", "a"} <= set(words.split()) for words in classes)


def test_article_topics_predict_better_than_one_topic(run):
    text = run("article_topics.py")
    topics, one = (float(value) for value in re.findall(r"perplexity ([\d.]+)", text))
    assert topics < 0.85 * one
    found = [set(words.split()) for words in re.findall(r"NPMI \S+  (.+)$", text, re.MULTILINE)]
    assert len(found) == 10
    assert any({"sequence", "tuple"} <= words for words in found)


@pytest.mark.slow
def test_odd_digits_are_found_by_one_score_or_another(run):
    text = run("odd_digits.py")
    rates = {}
    for line in re.findall(r"^  (?:likelihood|regret|complexity) .+$", text, re.MULTILINE):
        rates[line.split()[0]] = [float(rate) for rate in re.findall(r"\d\.\d{3}", line)]
    assert set(rates) == {"likelihood", "regret", "complexity"}
    assert min(rates["complexity"]) > 0.95
    assert min(rates["likelihood"]) < 0.9
    family, encoder = map(float, re.search(r"by ([\d.]+) for the family of q, and by ([\d.]+) more", text).groups())
    assert 0 < family < 1
    assert 0 < encoder < 1
    given, blind = map(float, re.search(r"half\) = (-[\d.]+) nats; .+ (-[\d.]+)$", text, re.MULTILINE).groups())
    assert given > blind + 5


@pytest.mark.slow
def test_digit_classes_need_few_labels_or_none(run):
    text = run("digit_classes.py")
    clusters, classes = (float(value) for value in re.findall(r": ([\d.]+)% of test digits", text))
    # ten classes of equal size: chance is 10%
    assert clusters > 45
    assert classes > 60
    rest, average = (float(value) for value in re.findall(r"([\d.]+)% wrong", text))
    assert rest < average - 2


@pytest.mark.slow
def test_digits_collapse_and_what_helps(run):
    text = run("digits_collapse.py")
    rows = re.findall(r"^  (.+?)  +NLL ([\d.]+) .+ information ([\d.]+) ", text, re.MULTILINE)
    nll, information = ({name: float(row[i]) for name, *row in rows} for i in range(2))
    assert len(rows) == 4
    assert information["plain ELBO"] < 0.2
    for name in ("free bits", "annealing", "pretraining, annealing, free bits"):
        assert information[name] > 1
        assert nll[name] < nll["plain ELBO"]


def test_missing_pixels_are_guessed_better_by_mean_field(run):
    text = run("missing_pixels.py")
    nats = {name: float(value) for name, value in re.findall(r"^  (\w.+?)  +(-[\d.]+) nats", text, re.MULTILINE)}
    assert nats["mean field"] > max(nats["the pixel's frequency"], nats["encoder and decoder once"]) + 0.5
    truth, *bounds = map(float, re.findall(r"(?:observed\)|mean field|left out) +(-[\d.]+)", text)[-3:])
    assert max(bounds) < truth


@pytest.mark.slow
def test_digits_priors_are_compared_by_log_p(run):
    text = run("digits_priors.py")
    found = re.findall(r" (-[\d.]+) +(-[\d.]+) +([\d.]+) +([\d.]+)$", text, re.MULTILINE)
    rows = [[float(value) for value in line] for line in found]
    assert len(rows) == 4
    for log_p, elbo, gap, kl in rows:
        # independent pixels with each one's own frequencies have -107.4 nats
        assert -97 < elbo < log_p
        assert gap == pytest.approx(log_p - elbo, abs=0.011)
        assert kl > 2
    # the VampPrior gains; with the same prior a posterior that bends has the tighter bound
    assert rows[2][0] > rows[0][0] + 0.5
    assert rows[3][2] < rows[0][2]


@pytest.mark.slow
def test_digits_factors_have_a_truth_to_measure_against(run):
    text = run("digits_factors.py")
    held_out = [float(value) for value in re.findall(r"held-out log p\(x\) (-[\d.]+)", text)]
    assert held_out == sorted(held_out)  # more factors describe new digits better, up to 50
    truth, bound, importance, annealed = (
        float(value)
        for pattern in (
            r"log p\(x\) is (-[\d.]+)",
            r"bound says +(-[\d.]+)",
            r"importance samples +(-[\d.]+)",
            r"walk +(-[\d.]+)",
        )
        for value in re.findall(pattern, text)
    )
    assert bound < importance < truth
    assert annealed == pytest.approx(truth, abs=0.3)


def test_sentences_without_a_label_teach_sentiment_too(run):
    text = run("sentiment.py")
    alone, more = (float(number) for number in re.findall(r": ([\d.]+)% of held-out", text))
    assert more > alone + 5
    assert more > 80
    assert text.count("\n    ") == 10


@pytest.mark.slow
def test_lists_are_given_to_their_writers(run):
    text = run("two_writers.py")
    one, two = (float(number) for number in re.findall(r"log p\(x\) = (-?[\d.]+)", text))
    assert min(one, two) > -12
    assert two > one - 0.3
    assert float(re.search(r"([\d.]+)% of held-out lists", text)[1]) > 95


@pytest.mark.slow
def test_a_walk_from_one_sentence_to_another(run):
    text = run("sentence_walk.py")
    plain, deep = (float(number) for number in re.findall(r"log p\(x\) = (-?[\d.]+)", text))
    assert -60 < plain < -10
    assert -60 < deep < -10
    assert float(re.search(r"KL ([\d.]+)", text)[1]) > 0.5
    walk = re.search(r"on the way:\n((?:    .*\n)+)", text)[1]
    assert len(walk.splitlines()) == 5


def test_a_toy_grammar_is_learned_and_parsed(run):
    text = run("toy_grammar.py", 1)
    assert -20 < float(re.search(r"log p\(x\) = (-?[\d.]+)", text)[1]) < -5
    found = {name: float(share) for name, share in re.findall(r"^(.+): sentence F1 ([\d.]+)$", text, re.MULTILINE)}
    assert found.keys() == {"PCFG", "right-branching"}
    assert all(0 <= share <= 100 for share in found.values())


@pytest.mark.slow
def test_digits_of_near_words_are_alike(run):
    text = run("digit_codes.py")
    assert int(re.search(r"(\d+)% of them are of the same digit", text)[1]) > 30  # by chance 10
    assert "straight_through" in text


@pytest.mark.slow
def test_codes_of_digits_are_all_used(run):
    text = run("digit_words.py")
    bounds = [float(bound) for bound in re.findall(r"bound (-[\d.]+) nats", text)]
    assert len(bounds) == 2
    assert all(-40 < bound < -15 for bound in bounds)


@pytest.mark.slow
def test_melodies_are_read(run):
    read = re.search(r"(\d+) of 40 melodies", run("tones_ctc.py"))[1]
    assert int(read) >= 36


@pytest.mark.slow
def test_numbers_are_translated(run):
    found = re.findall(r"(\d+) of 17 words translated", run("word_alignment.py"))
    assert len(found) == 2
    assert all(int(count) >= 15 for count in found)


@pytest.mark.slow
def test_a_diffusion_over_the_codes_of_digits_has_a_better_bound_than_a_normal(run):
    text = run("digits_diffusion.py")
    before, after = (float(value) for value in re.findall(r"bound +(-[\d.]+)", text))
    noise = float(re.search(r"± ([\d.]+) of sampling", text)[1])
    assert after > before + max(4 * noise, 0.5)


@pytest.mark.slow
def test_two_photographs_are_coloured_in(run, tmp_path):
    text = run("two_photographs.py", tmp_path)
    values = [float(value) for value in re.findall(r"= (-?[\d.]+) ±", text)]
    assert len(values) == 3
    # all colours alike would be -log 289 = -5.7
    assert min(values) > -4
    assert values[2] > values[0] + 0.02
    assert (tmp_path / "two_photographs.png").stat().st_size > 1000


@pytest.mark.slow
def test_problems_without_their_sum_help_those_with_it(run):
    before, after = map(int, re.findall(r"(\d+) % of 100 held-out", run("word_problems.py")))
    assert before >= 20
    assert after >= before - 5
