import sys

import pytest
from torch.optim.lr_scheduler import LRScheduler

from harness.errors import UserError
from harness.instantiate import resolve_class


@pytest.mark.parametrize("module", ["failing", "failing.inner"])
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("x = 1\nclass S(:\n", r"SyntaxError: invalid syntax, .*\.py, line 2"),
        ("x = 1\nimport no_such_package\n", r"ModuleNotFoundError: No module named 'no_such_package' \(.*, line 2\)"),
        ("def f():\n    raise KeyError('x')\nf()\n", r"KeyError: 'x' \(.*\.py, line 2\)"),
        ("import sys\nsys.exit('no licence')\n", r"SystemExit: no licence \(.*\.py, line 2\)"),
    ],
)
def test_code_that_fails_on_import_is_told_with_reason_and_place(tmp_path, monkeypatch, module, code, reason):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "failing", raising=False)
    (tmp_path / "failing").mkdir()
    (tmp_path / "failing" / ("inner.py" if "." in module else "__init__.py")).write_text(code)
    with pytest.raises(
        UserError, match=rf"^scheduler._target_={module}.S: must be the import path of .* \({reason}\)$"
    ):
        resolve_class("scheduler", f"{module}.S", LRScheduler)


def test_a_signal_during_an_import_is_no_mistake_of_the_module_s(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "slow.py").write_text("class Stopped(SystemExit): ...\nraise Stopped\n")
    with pytest.raises(SystemExit):
        resolve_class("scheduler", "slow.S", LRScheduler)
