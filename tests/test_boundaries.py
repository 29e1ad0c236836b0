"""Who may import whom: proved in a process of its own, and by reading the imports, package by package."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {  # from the ground up; a package imports those of lower floors and itself
    "ortho_lora": [
        {"errors"},
        {"record", "assets"},
        {"launching", "surgery", "tasks"},
        {"training", "trainers"},
        {"study"},
        {"__main__"},
        {"__init__", "command"},
    ],
    "analysis": [
        {"reading", "statistics"},
        {"library"},
        {"conflict", "outcomes"},
        {"transfer"},
        {"diagnosis"},
        {"figures", "output"},
        {"study", "report", "summary", "notebook"},
        {"__init__", "__main__"},
    ],
    "app": [{"shared", "playground"}, {"launching"}, {"views"}, {"main"}, {"__init__", "__main__"}],
}
OF_TRAINING = {  # packages and modules of `ortho_lora` that others may use
    "analysis": {"errors", "record"},
    "app": {
        "errors",
        "record",
        "launching",
        "surgery.methods",
        "tasks.files",
        "tasks.packaged",
        "tasks.specs",
        "training.config",
        "training.estimate",
    },
}
HEAVY = {"torch", "transformers", "peft"}
FORBIDDEN = {"analysis": HEAVY | {"streamlit"}, "app": HEAVY}  # nor inside a function
MODULES = {
    top: sorted(path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / top).rglob("*.py"))
    for top in FLOORS
}


def imports(top: str) -> Iterator[tuple[str, str]]:
    """Module and what it imports, as `ortho_lora/record/schema` and `ortho_lora.errors.OrthoLoraError`."""
    for module in MODULES[top]:
        for node in ast.walk(ast.parse((ROOT / f"{module}.py").read_text())):
            if isinstance(node, ast.Import):
                yield from ((module, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{module}: imports are absolute"
                yield from ((module, f"{node.module}.{alias.name}") for alias in node.names)


def floor(top: str, package: str) -> int:
    return next(number for number, packages in enumerate(FLOORS[top]) if package in packages)


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def import_all(*packages: str) -> str:
    chosen = [name for package in packages for name in MODULES[package.split("/")[0]] if name.startswith(package)]
    names = [name.removesuffix("/__init__").replace("/", ".") for name in chosen]
    return "import " + ", ".join(name for name in names if name not in ("app.main", "app.__main__"))


@pytest.mark.parametrize("top", FLOORS)
def test_imports_run_one_way(top):
    upwards = [
        f"{module} -> {name}"
        for module, name in imports(top)
        if name.startswith(f"{top}.")
        if (here := module.split("/")[1]) != (there := name.split(".")[1])
        if floor(top, there) >= floor(top, here)
    ]
    assert not upwards


@pytest.mark.parametrize("top", FLOORS)
def test_no_modules_import_each_other_in_a_circle(top):
    """Nor through an import inside a function."""
    named = {module.replace("/", ".").removesuffix(".__init__"): module for module in MODULES[top]}
    graph = {module: set() for module in MODULES[top]}
    for module, name in imports(top):
        parts = name.split(".")
        known = [named[".".join(parts[:n])] for n in range(len(parts), 1, -1) if ".".join(parts[:n]) in named]
        graph[module].update(known[:1])  # the most exact one
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("top", FLOORS)
def test_each_package_says_what_it_is(top):
    for module in MODULES[top]:
        if module.endswith("/__init__"):
            assert ast.get_docstring(ast.parse((ROOT / f"{module}.py").read_text())), module


@pytest.mark.parametrize(
    "packages",
    [
        ["analysis"],
        ["app"],
        ["ortho_lora/record", "ortho_lora/tasks", "ortho_lora/launching", "ortho_lora/study", "ortho_lora/__main__"],
        ["ortho_lora/training/config", "ortho_lora/training/estimate", "ortho_lora/surgery/methods"],
    ],
    ids=str,
)
def test_looking_imports_no_torch(packages):
    assert not loaded_after(import_all(*packages)) & HEAVY


def test_the_test_above_would_notice():
    assert "torch" in loaded_after(import_all("ortho_lora/training/train"))


def test_commands_are_told_before_anything_large_is_imported():
    """What `ortho-lora --help` and a shell's completion import."""
    commands = "import ortho_lora.command, ortho_lora.__main__, analysis.__main__, app.__main__"
    assert not loaded_after(commands) & (HEAVY | {"pandas", "duckdb", "plotly", "streamlit", "sklearn"})


def test_analysis_imports_no_streamlit():
    assert "streamlit" not in loaded_after(import_all("analysis"))


@pytest.mark.parametrize("top", OF_TRAINING)
def test_only_the_agreed_parts_of_training_are_used(top):
    used = [f"{name}." for _, name in imports(top) if name.startswith("ortho_lora.")]
    assert used
    assert not {name.split(".")[0] for _, name in imports(top)} & FORBIDDEN[top]
    for name in used:
        assert any(name.startswith(f"ortho_lora.{allowed}.") for allowed in OF_TRAINING[top]), name


def test_training_knows_nothing_of_looking():
    assert not {name.split(".")[0] for _, name in imports("ortho_lora")} & {"analysis", "app", "streamlit", "plotly"}


def test_plotly_is_used_by_figures_only():
    users = {module for module, name in imports("analysis") if name.startswith("plotly")}
    assert users
    assert all(user.startswith("analysis/figures/") for user in users)


def test_nobody_waits_for_what_few_need():
    """Half a second of every first look."""
    slow = {"scipy.stats", "scipy.optimize", "scipy.cluster"}
    code = f"import sys\n{import_all('app', 'analysis')}\nprint(*{slow} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not done.stdout.split()
