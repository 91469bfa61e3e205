"""Which part of the package may import which, anywhere in its files, in functions too."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter

from harness.files import PACKAGE

GROUND = {"config", "errors", "files", "instantiate", "machine", "record", "seeding"}
ALLOWED = {
    "ground": {"errors", "files", "config", "instantiate"},
    "data": GROUND,
    "models": GROUND,
    "training": GROUND,
    "compare": GROUND,
    "stages": GROUND | {"training"},
    "views": GROUND | {"training"},
    "runs": GROUND | {"data", "models", "training", "stages", "views"},
    "report": GROUND | {"compare", "views"},
    "app": GROUND | {"training", "stages", "views", "runs", "report"},
}
# Which of them may know these packages.
KNOWN_BY = {"hydra": {"app"}, "omegaconf": {"app"}, "torch": {"machine", "seeding", *ALLOWED} - {"compare", "report"}}


def imports_by_room():
    """{room: [(file, imported module), ...]}; a room is a folder, or a file of the ground."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE)
        room = inside.parts[0] if len(inside.parts) > 1 else inside.stem
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{inside}: imports are absolute"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.setdefault(room, []).extend((str(inside), name) for name in names)
    return found


def test_imports_go_down_and_never_across():
    wrong = []
    for room, imported in imports_by_room().items():
        if room in ("benchmarks", "__init__"):
            continue
        allowed = ALLOWED["ground" if room in GROUND else room] | {room}
        for file, name in imported:
            if name.startswith("harness.") and name.split(".")[1] not in allowed:
                wrong.append(f"{file} imports {name}")
    assert wrong == []


def test_hydra_and_torch_stay_where_they_belong():
    wrong = [
        f"{file} imports {name}"
        for room, imported in imports_by_room().items()
        for file, name in imported
        if (package := name.partition(".")[0]) in KNOWN_BY and room not in KNOWN_BY[package] | {"benchmarks"}
    ]
    assert wrong == []


def test_no_files_import_each_other_in_a_circle():
    modules = {
        path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", ".") for path in PACKAGE.rglob("*.py")
    }
    graph = {}
    for imported in imports_by_room().values():
        for file, name in imported:
            taken = {name, name.rpartition(".")[0]} & modules
            graph.setdefault("harness." + file.removesuffix(".py").replace("/", "."), set()).update(taken)
    assert list(TopologicalSorter(graph).static_order())


def test_every_room_has_a_line_in_the_table():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms - {"benchmarks"} == ALLOWED.keys() - {"ground"}
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == GROUND


def test_comparing_and_reporting_never_load_torch():
    code = "import sys, harness.report.write, harness.report.aggregates; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
