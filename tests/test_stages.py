"""The stages of Burda, Grosse and Salakhutdinov (2016): 3^i passes at 10^(-i / 7) of the rate."""

import pytest

from latentia.learners.schedules import learning_rate


@pytest.mark.parametrize("steps_a_pass", [1, 7, 2980])
def test_each_stage_has_its_passes(steps_a_pass):
    passes = 3280
    assert sum(3**i for i in range(8)) == passes
    rates = [learning_rate("stages", 1e-3, step * steps_a_pass, passes * steps_a_pass) for step in range(passes)]
    expected = [1e-3 * 10 ** (-i / 7) for i in range(8) for _ in range(3**i)]
    assert rates == pytest.approx(expected)
    # the last step before a stage is still in the one before it
    boundary = learning_rate("stages", 1e-3, 4 * steps_a_pass - 1, passes * steps_a_pass)
    assert boundary == pytest.approx(1e-3 * 10 ** (-1 / 7))


def test_a_shorter_fit_has_the_same_shares():
    steps = 3280 * 100
    short = [learning_rate("stages", 1.0, step, 328) for step in range(328)]
    assert short == [learning_rate("stages", 1.0, step * 1000, steps) for step in range(328)]
    assert (short[0], short[-1]) == (1.0, pytest.approx(0.1))
