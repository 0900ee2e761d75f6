"""What is slow to import is imported where it is used: models without a compiler, refusals without torch."""

import inspect
import json
import subprocess
import sys

import pytest

from latentia import model
from latentia.cli import catalogue, main
from latentia.runs.build import LEARNERS, MODELS, OBJECTIVES

SLOW = ("torch", "numba", "scipy", "pandas", "pyarrow", "sklearn", "matplotlib", "PIL", "rich", "torch._dynamo")


def loaded(code):
    """Which of what is SLOW a new Python has imported after `code`."""
    told = f"import json, sys\nprint(json.dumps([name for name in {SLOW} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{told}"], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_models_are_imported_without_a_compiler():
    assert loaded("from latentia import models\n[getattr(models, name) for name in models.__all__]") == ["torch"]


ANSWERED = [
    "--help",
    "--version",
    "fit --help",
    "sweep --help",
    "evaluate --help",
    "detect --help",
    "compress --help",
    "decompress --help",
    "show --help",
]
REFUSED = [
    "nope",
    "evaluate --nope",
    "evaluate RUN --importance_samples x",
    "sample RUN --nope",
    "detect RUN --score oddness",
    "compress RUN --samples 0",
    "decompress FILE",
    "fit",
    "fit --modle VAE",
    "fit --model VEA --data x",
    "fit --model VAE --learner Gradeint",
    "fit --model VAE --objective elbow",
    "fit --model HMM --objective elbo",
    "fit --model VAE",
    "fit --model VAE --data digits --nope 1",
    "fit --model VAE --data digits --model.latents 3",
    "fit --model VAE --data digits --model.latent three",
    "fit --model VAE --data digits --learner.batchsize 3",
    "fit --model VAE --data digits --learner.schedule zigzag",
    "fit --model VAE --data digits --learner.progress false",
    "fit --model VAE --data digits --objective iwae --objective.sample 3",
    "fit --model VAE --data digits --seed x",
    "fit --model VAE --data digits --holdout x",
    "fit --resume RUN --nope",
    "sweep --model HMM --data sentences --model.sttes 1:3",
    "sweep --resume RUN",
]
COMMANDS = f"""
import contextlib, io, sys
from latentia.cli import main

def answer(line, status, *slow):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(line.split())
        except SystemExit as end:
            assert (end.code or 0) == status, (line, said.getvalue())
    found = [name for name in slow if name in sys.modules]
    assert not found, (line, found)

for line in {REFUSED}:
    answer(line, 2, "jsonargparse", *{SLOW})
for line in {ANSWERED}:
    answer(line, 0, *{SLOW})
"""


def test_help_and_refusals_answer_before_torch_is_imported():
    assert loaded(COMMANDS) == []


@pytest.mark.parametrize("name", [*MODELS, *LEARNERS, *OBJECTIVES])
def test_options_read_from_the_source_are_those_that_python_finds(name):
    found = inspect.signature({**MODELS, **LEARNERS, **OBJECTIVES}[name]).parameters.values()
    assert catalogue.options(name) == {each.name: each.annotation.replace('"', "'") for each in found}


def test_names_read_from_the_source_are_those_that_python_finds():
    assert catalogue.models() == [*MODELS]
    assert catalogue.learners() == [*LEARNERS]
    assert catalogue.objectives() == [*OBJECTIVES]


@pytest.mark.parametrize("base", ["TractableModel", "EMModel"])
def test_capabilities_read_from_the_source_are_those_that_python_finds(base):
    assert {name for name in MODELS if catalogue.derives(name, base)} == {
        name for name, cls in MODELS.items() if issubclass(cls, getattr(model, base))
    }


def test_what_a_fit_takes_is_not_refused_early(capsys):
    """An option whose type is put together reaches jsonargparse, which refuses this one for its value."""
    with pytest.raises(SystemExit):
        main(["fit", "--model", "VAE", "--data", "digits", "--model.hidden+", "16", "--model.hidden", "wide"])
    assert "unknown option" not in capsys.readouterr().err
