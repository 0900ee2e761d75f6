"""Forms, their grammar, and the machine of admissible actions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentia.distributions.forms import Form, read_form
from latentia.distributions.grammar import Grammar, induce
from latentia.distributions.logical_forms import LogicalForms, Machine, in_order
from latentia.errors import DataError
from latentia.testing.expect import seeded

QUERIES = """
query = ( lambda var kind fact ) | city   # a comment
fact  = ( flight var ) | ( from var place )
      | ( and fact fact+ ) | ( not fact )
place = city | var
city  = ci0 | ci1
var   = $0 | $1
kind  = e
"""
TEXT = "( lambda $0 e ( and ( flight $0 ) ( from $0 ci0 ) ( not ( flight $1 ) ) ) )"

words = st.text("abc$<=:_0", min_size=1, max_size=4)
forms = st.recursive(
    words.map(Form),
    lambda part: st.tuples(words, st.lists(part, min_size=1, max_size=3).map(tuple)).map(lambda a: Form(*a)),
)


class Any:
    """Actions with logits drawn once for each step, whatever came before."""

    def __init__(self, size, steps, count, seed):
        generator = torch.Generator().manual_seed(seed)
        self.table = 3 * torch.randn(steps + 2, count, generator=generator, dtype=torch.float64)
        self.size = size

    def logits(self, actions):
        return self.table[: actions.shape[-1]].expand(*actions.shape, -1)

    def begin(self, samples):
        rows = samples * self.size
        return self.table[0].expand(rows, -1), {"t": torch.zeros(rows, dtype=torch.long)}

    def step(self, action, state):
        t = (state["t"] + 1).clamp(max=len(self.table) - 1)
        return self.table[t], {"t": t}


def distribution(text, most, size=1, seed=0):
    machine = Machine(Grammar(text), most)
    return LogicalForms(Any(size, most, machine.actions, seed), machine, torch.zeros(size).double())


@given(forms)
def test_a_form_that_is_written_is_read_again(form):
    assert read_form(str(form)) == form


@given(st.lists(forms, min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_forms_imply_a_grammar_that_has_them(several):
    grammar = induce(several)
    for form in several:
        assert grammar.decode(grammar.encode(form)) == form


@given(st.integers(0, 1000), st.integers(4, 14))
@settings(max_examples=20, deadline=None)
def test_every_draw_is_a_form_of_the_grammar(seed, most):
    q = distribution(QUERIES, most, 2, seed)
    with seeded(seed):
        z = q.sample((4,))
    actions, lengths = in_order(z)
    assert int(lengths.max()) <= most
    for row, length in zip(actions.flatten(0, 1).tolist(), lengths.flatten().tolist(), strict=True):
        form = q.machine.grammar.decode(row[:length])
        assert q.machine.grammar.encode(form) == row[:length]
    assert (q.log_prob(z) > -torch.inf).all()


@pytest.mark.parametrize("most", [1, 5, 8])
def test_probabilities_of_all_forms_of_so_many_actions_sum_to_one(most):
    q = distribution(QUERIES, most)
    every = list(q.machine.grammar.every(most))
    z = torch.zeros(len(every), 1, most, q.machine.actions).double()
    for s, actions in enumerate(every):
        z[s, 0, torch.arange(len(actions)), actions] = 1
    assert float(q.log_prob(z).logsumexp(0)) == pytest.approx(0, abs=1e-12)
    assert len({str(q.machine.grammar.decode(actions)) for actions in every}) == len(every)


def test_what_is_no_form_has_no_probability():
    q = distribution(QUERIES, 6)
    right = q.machine.grammar.encode(read_form("( lambda $0 e ( flight $0 ) )"))
    z = torch.zeros(3, 1, 6, q.machine.actions).double()
    z[0, 0, torch.arange(5), right] = 1
    z[1, 0, torch.arange(4), right[:4]] = 1  # not at its end
    z[2, 0, torch.arange(5), right[::-1]] = 1
    found = q.log_prob(z)[:, 0]
    assert found[0] > -torch.inf
    assert (found[1:] == -torch.inf).all()


def test_actions_are_from_the_top_down():
    grammar = Grammar(QUERIES)
    found = [str(grammar.actions[k]) for k in grammar.encode(read_form(TEXT))]
    assert found[:4] == ["( lambda var kind fact )", "$0", "e", "( and fact fact fact* )"]
    assert found[-1] == "."
    assert grammar.decode(grammar.encode(read_form(TEXT))) == read_form(TEXT)


def test_a_grammar_that_is_implied():
    grammar = induce(
        [read_form(TEXT), read_form("( lambda $0 e ( and ( flight $0 ) ) )"), read_form("( f ( and ci0 $0 ) )")],
        ["ci7", "show", "$9"],
    )
    # as many as three numbers of arguments are any number, and an entity's number may be another
    long = read_form("( lambda $0 e ( and ( flight $0 ) ( flight $1 ) ( flight $0 ) ( from $0 ci7 ) ( flight $0 ) ) )")
    assert grammar.decode(grammar.encode(long)) == long
    with pytest.raises(DataError, match="outside the grammar"):
        grammar.encode(read_form("( lambda $0 e ( flight show ) )"))
    assert grammar.copies(["ci7", "show", "and", "ci0"])[1:3] == [-1, -1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("( flight $0", "position 1: the bracket that opens here is never closed"),
        ("( a b ) )", "position 9: '\\)' stands behind the end"),
        ("a b", "position 3: 'b' stands behind the end"),
        (") a", "position 1: a closing bracket without an opening one"),
        ("( a ( b ) )", "position 5: brackets hold a word and what it is applied to"),
        ("( ( a b ) c )", "position 1: brackets begin with a word"),
        ("  ", "position 1: a form is wanted"),
    ],
)
def test_an_ill_formed_form_is_refused_by_its_position(text, said):
    with pytest.raises(DataError, match=f"train.tsv, line 3, {said}"):
        read_form(text, "train.tsv, line 3")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# nothing\n", "is empty"),
        ("a = b\nnonsense", "line 2: write TYPE = WAY"),
        ("a = b\na = c", "line 2: type 'a' is written twice"),
        ("a = ( f q )", "line 1: 'q' in \\( f q \\) is no type"),
        ("a = ( f )", "line 1: '\\( f \\)' is no way to build"),
        ("a = b |", "line 1: 'an empty way' is no way to build"),
        ("a = ( f a* ) | b", "line 1: 'a\\*': one '\\+' may stand"),
        ("a = ( f a )", "type 'a' has no form that ever ends"),
        ("a = ( f b ) | ( f c )\nb = x\nc = y", "type 'a' has two ways to build 'f'"),
    ],
)
def test_a_signature_that_makes_no_sense_is_refused(text, said):
    with pytest.raises(DataError, match=said):
        Grammar(text)


def test_a_form_outside_the_grammar_is_refused_with_what_it_may_be():
    grammar = Grammar(QUERIES)
    with pytest.raises(DataError, match=r"line 2: \( from \$0 \) is outside .* fact is wanted.* \( from var place \)"):
        grammar.encode(read_form("( lambda $0 e ( from $0 ) )"), "line 2")
    with pytest.raises(DataError, match=r"place is wanted, and it may be ci0, ci1"):
        grammar.encode(read_form("( lambda $0 e ( from $0 e ) )"))
    with pytest.raises(DataError, match="has 5 actions, and forms have 4 at most"):
        grammar.encode(read_form("( lambda $0 e ( flight $0 ) )"), most=4)
    with pytest.raises(DataError, match="end before the form does"):
        grammar.decode(grammar.encode(read_form(TEXT))[:-2])
    with pytest.raises(DataError, match="does not build query"):
        grammar.decode([len(grammar.actions) - 1])
    with pytest.raises(DataError, match="not one form"):
        induce([])
