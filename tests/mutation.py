"""Mutation testing: does a test fail when one operator, number or statement of the harness is another one?

`python tests/mutation.py [FILE...]` makes each small change to a file, alone, in a copy of the repository, and runs the
fast tests that concern the file. What no test notices is printed as survived. Text is not changed, nor what is only
raised or logged. Each is tried in a process forked from one that has imported torch, and loads all own modules anew.
"""

from __future__ import annotations

import ast
import copy
import gc
import importlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("harness", "conf", "scripts", "tests", "train.py", "pyproject.toml")
# The tests of each file, the likeliest to notice first.
TESTS = {
    "harness/compare/stats.py": ("compare/test_stats.py", "compare/test_comparison.py"),
    "harness/training/plan.py": ("training/test_schedule.py",),
    "harness/stages/keys.py": ("stages/test_store.py", "stages/test_identity.py"),
    "harness/training/state.py": ("training/test_state.py", "training/test_steps.py", "stages/test_store.py"),
    "harness/stages/store.py": ("stages/test_store.py",),
    "harness/training/schedule.py": ("training/test_schedule.py",),
    "harness/training/schedule_rules.py": ("training/test_schedule.py",),
}
# Loaded once, for all processes; of these, our own are forgotten again.
PRELOADED = ("pytest", "hypothesis", "_hypothesis_pytestplugin", "scipy.stats", "harness.app.main", "harness.runs.run",
             "support.small_runs")  # fmt: skip
OTHER: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
}  # fmt: skip
PLAIN_TESTS = (ast.Name, ast.Attribute, ast.Call, ast.NamedExpr)


def others(node: Any) -> Iterator[ast.AST]:
    """What may stand in a node's place to make a mutant."""
    if type(node) in OTHER:
        yield OTHER[type(node)]()
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.If | ast.IfExp | ast.While) and isinstance(node.test, PLAIN_TESTS):
        (mutant := copy.copy(node)).test = ast.UnaryOp(ast.Not(), node.test)
        yield mutant
    elif isinstance(node, ast.Return) and node.value and ast.unparse(node.value) != "None":
        yield ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Raise | ast.Continue | ast.Expr):
        yield ast.Pass()


def mutants(tree: ast.AST, line: int = 0) -> Iterator[tuple[int, str]]:
    """The line of each mutation below a node and what it is; while the mutation is given, the tree has it."""
    for field, value in ast.iter_fields(tree):
        children = value if isinstance(value, list) else [value]
        for place, node in enumerate(children):
            if not isinstance(node, ast.AST) or field in ("annotation", "returns", "decorator_list") or _is_text(node):
                continue
            here = getattr(node, "lineno", line)
            for other in others(node):
                shown = [tree, tree] if isinstance(tree, ast.expr) else [node, other]
                before = _shown(shown[0])
                _put(tree, field, place, other)
                yield here, f"{before} -> {_shown(shown[1])}"
                _put(tree, field, place, node)
            if not isinstance(node, ast.Raise):
                yield from mutants(node, here)


def _is_text(node: ast.AST) -> bool:
    """Whether it is a docstring or something for the log."""
    return isinstance(node, ast.Expr) and ast.unparse(node).startswith(("log.", "'", '"'))


def _put(parent: ast.AST, field: str, place: int, node: ast.AST) -> None:
    if isinstance(getattr(parent, field), list):
        getattr(parent, field)[place] = node
    else:
        setattr(parent, field, node)


def _shown(node: ast.AST) -> str:
    text = ast.unparse(node.test if isinstance(node, ast.If | ast.While) else node)
    return text if len(text) < 100 else f"{text[:100]}..."


def passes(file: str, cpu_seconds: int) -> bool:
    """Whether the tests of a file of the working directory pass in a new process that is given so much time."""
    sys.stdout.flush()
    if child := os.fork():
        return os.waitpid(child, 0)[1] == 0
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    signal.alarm(10 * cpu_seconds)  # it may also wait for ever
    import hypothesis
    import pytest
    from support import processes

    # Tests that wait for processes of their own would take seconds for each change.
    processes.forking = subprocess.Popen = lambda *_, **__: pytest.skip("starts processes")
    # A failure is enough: no smaller one is looked for, and none is tried again.
    hypothesis.settings.register_profile("mutation", phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate])
    options = ["-x", "-m", "fast", "--hypothesis-profile=mutation", "--hypothesis-seed=0", "-p", "no:cacheprovider"]
    os._exit(pytest.main([*options, "-p", "no:randomly", *(f"tests/{name}" for name in TESTS[file])]))


def survivors(file: str) -> tuple[int, int]:
    """How many mutants of a file there are, and how many of them its tests let pass."""
    source = Path(file).read_text()
    tree, started = ast.parse(source), time.monotonic()
    if not passes(file, 600):
        raise SystemExit(f"{file}: its tests fail as it is")
    seconds = 10 + 3 * round(time.monotonic() - started)
    sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
    for compiled in Path(file).parent.glob(f"__pycache__/{Path(file).stem}.*"):
        compiled.unlink()
    tried = survived = 0
    for line, what in mutants(tree):
        Path(file).write_text(ast.unparse(ast.fix_missing_locations(tree)))
        alive = passes(file, seconds)
        tried, survived = tried + 1, survived + alive
        print(f"{'SURVIVED' if alive else 'caught'}  {file}:{line}  {what}", flush=True)
    Path(file).write_text(source)
    return tried, survived


def main(files: list[str]) -> None:
    """Print every mutant of the files, and for each file how many were caught."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        for name in COPIED:
            copied = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copied(ROOT / name, Path(folder) / name)
        os.chdir(folder)
        sys.path[:1] = [folder, f"{folder}/tests"]
        for name in PRELOADED:
            importlib.import_module(name)
        importlib.import_module("torch").optim.SGD([importlib.import_module("torch").zeros(1)])
        for name in [name for name in sys.modules if name.partition(".")[0] in ("harness", "support")]:
            del sys.modules[name]
        gc.freeze()
        for file in files:
            tried, survived = survivors(file)
            print(f"{file}: {tried - survived} of {tried} mutants caught, {(tried - survived) / tried:.1%}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(TESTS))
