"""Imports run one way (DESIGN, section 6), and nothing reads a file that could run code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import latentia
from latentia import models

ROOT = Path(latentia.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]

GROUND = {"errors", "files", "tensors", "summary", "batch", "bound", "kernels", "networks", "distributions"}
# what each part may import of latentia; a part that is not listed may import anything but a particular model
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "tensors": {"errors", "files"},
    "kernels": {"kernels", "errors"},
    "networks": {"networks", "errors"},
    "distributions": {"distributions", "kernels", "networks", "errors"},
    "batch": {"distributions"},
    "summary": {"batch", "distributions"},
    "bound": set(),
    "model": GROUND,
    "gradients": {"gradients"} | GROUND,
    "objectives": GROUND | {"model", "gradients", "objectives"},
    "data": {"data", "batch", "distributions", "errors", "files", "model"},
    "inference": GROUND | {"model", "objectives", "inference", "data", "progress"},
    "learners": GROUND | {"model", "gradients", "objectives", "inference", "measure", "learners", "progress", "data"},
    "measure": GROUND | {"model", "inference", "measure", "data", "progress"},
    "models": GROUND | {"model", "models"},
}
# these name models: the command to offer them, the run to look one up by its name, the checks to find them all
MAY_NAME_MODELS = {"models", "cli", "runs", "sklearn", "testing"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "pandas.read_pickle", "pd.read_pickle"}


def part_of(name):
    """The top-level part of the house that a dotted module or a path belongs to."""
    return name.removeprefix("latentia.").replace("/", ".").split(".")[0].removesuffix(".py")


def imported(tree, path=None):
    """The dotted names that a module imports, wherever in it, with those that `from . import` means."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inside(tree, path=None):
    """The imports of latentia's own parts."""
    own = {name for name in imported(tree, path) if name.startswith("latentia.")}
    return {name for name in own if (ROOT / part_of(name)).exists() or (ROOT / f"{part_of(name)}.py").exists()}


def wrong_directions(name, tree):
    part = part_of(name)
    allowed = ALLOWED.get(part)
    wrong = set() if allowed is None else {other for other in inside(tree, name) if part_of(other) not in allowed}
    if part not in MAY_NAME_MODELS:
        wrong |= {other for other in imported(tree, name) if other.split(".")[:2] == ["latentia", "models"]}
    return wrong


def dangers(tree):
    """Whatever could run code that came with data."""
    wrong = {name for name in imported(tree) if name.split(".")[0] in FORBIDDEN_MODULES or name == "torch.load"}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        if name in FORBIDDEN_CALLS:
            wrong.add(name)
        if name in ("np.load", "numpy.load"):
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            if options.get("allow_pickle") != "False":
                wrong.add(name)
    return wrong


@pytest.mark.parametrize("name", NAMES)
def test_imports_run_one_way(name):
    assert not wrong_directions(name, ast.parse((ROOT / name).read_text()))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_read_can_run_code(name):
    assert not dangers(ast.parse((ROOT / name).read_text()))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("distributions/chain.py", "from latentia.model import Batch"),
        ("kernels/chain.py", "from latentia.distributions import Chain"),
        ("networks/mlp.py", "import latentia.gradients"),
        ("model.py", "from latentia.objectives import elbo"),
        ("gradients/still.py", "from latentia.model import Batch"),
        ("objectives/elbo.py", "from latentia import learners"),
        ("models/vaes/vae.py", "from latentia.objectives import elbo"),
        ("evaluate.py", "from latentia.models import HMM"),
        ("tasks/cluster.py", "from latentia.models.chains.hmm import HMM"),
        ("report/page.py", "def f():\n    from latentia import models"),
        ("data/files.py", "from latentia.learners import EM"),
        ("files.py", "from latentia.data import load"),
        ("tensors.py", "from latentia.model import Batch"),
        ("summary.py", "from latentia.data import Schema"),
        ("measure/evaluation.py", "from latentia.learners import EM"),
        ("inference/annealed.py", "from latentia.measure import evaluation"),
    ],
)
def test_a_wrong_import_is_noticed(name, line):
    assert wrong_directions(name, ast.parse(line))


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from torch import load",
        "torch.load(f)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "eval(s)",
        "import joblib as j",
    ],
)
def test_a_danger_is_noticed(line):
    assert dangers(ast.parse(line))


def test_models_are_found_by_name_and_imported_when_asked_for():
    named = ast.parse(Path(models.__file__).read_text("utf-8"))
    told = {name.split(".")[-1]: name for name in imported(named) if name.startswith("latentia.models.")}
    for name in models.__all__:
        assert name in dir(models)
        found = getattr(models, name)
        # pyright is told the same
        assert told[name] == f"{found.__module__}.{name}"
    with pytest.raises(AttributeError, match="no attribute 'vae'"):
        models.__getattr__("vae")
    code = "import sys; from latentia.models import HMM; print(*(m for m in sys.modules if 'latentia.models.' in m))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(ran.stdout.split()) == {"latentia.models.chains", "latentia.models.chains.hmm"}
