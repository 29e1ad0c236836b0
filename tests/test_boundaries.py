"""Who may import whom: proved in a process of its own, and by reading the imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {"analysis": {"torch", "transformers", "peft", "streamlit"}, "app": {"torch", "transformers", "peft"}}
OF_TRAINING = {  # what others may use of `ortho_lora`
    "analysis": {"ortho_lora.schema", "ortho_lora.errors", "ortho_lora.reading", "ortho_lora.study.record"},
    "app": {
        "ortho_lora.schema",
        "ortho_lora.errors",
        "ortho_lora.reading",
        "ortho_lora.config",
        "ortho_lora.methods",
        "ortho_lora.tasks.packaged",
        "ortho_lora.tasks.files",
        "ortho_lora.processes",
        "ortho_lora.queue",
        "ortho_lora.estimate",
    },
    "ortho_lora": None,
}


def imports(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield path, node.module


def loaded_after(code):
    script = f"import sys\n{code}\nprint(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import analysis.queries, analysis.figures, analysis.runs, analysis.report, analysis.export, analysis.__main__",
        "import ortho_lora.schema, ortho_lora.config, ortho_lora.tasks, ortho_lora.__main__",
        "import app.state, app.launcher; from app.views import conflicts, diagnosis, launch, learn, metrics",
        "from app.views import projection, runs, start, study",
    ],
)
def test_looking_imports_no_torch(code):
    assert not loaded_after(code) & {"torch", "transformers", "peft"}


def test_the_test_above_would_notice():
    assert "torch" in loaded_after("import ortho_lora.train")


def test_analysis_imports_no_streamlit():
    assert "streamlit" not in loaded_after(
        "import analysis.queries, analysis.figures, analysis.runs, analysis.report, analysis.export, analysis.__main__"
    )


@pytest.mark.parametrize("package", ["analysis", "app"])
def test_only_the_agreed_parts_of_training_are_used(package):
    used = {(path.name, name) for path, name in imports(package) if name.split(".")[0] == "ortho_lora"}
    assert used
    assert {name for _, name in used} <= OF_TRAINING[package]
    assert not {name.split(".")[0] for _, name in imports(package)} & FORBIDDEN[package]


def test_training_knows_nothing_of_looking():
    assert not {name.split(".")[0] for _, name in imports("ortho_lora")} & {"analysis", "app", "streamlit", "plotly"}


def test_plotly_is_used_by_figures_only():
    users = {path.relative_to(ROOT).as_posix() for path, name in imports("analysis") if name.startswith("plotly")}
    assert {user for user in users if not user.startswith("analysis/figures/")} == {"analysis/theme.py"}
