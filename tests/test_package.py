"""What a wheel of this tree carries, and what it does in an environment that holds nothing else of this project.

The environment is a real one, with the wheel installed by pip, and sees the packages that the tests run with:
this shows what the wheel lacks, not that its ranges can be resolved (docs/versions.md says where that was tried).
"""

import email
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
import tomllib
import urllib.request
import venv
import zipfile
from pathlib import Path

import psutil
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEVER_IN_A_WHEEL = re.compile(r"(^|/)(tests|benchmarks|docs|examples)/|__pycache__")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Made of a copy of the tree: setuptools leaves its own files beside what it packs."""
    copied, made = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("ortho_lora", "analysis", "app"):
        (copied / name).symlink_to(ROOT / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (copied / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet", "-w", made]
    subprocess.run(command, cwd=copied, check=True, capture_output=True)
    return next(made.iterdir())


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Folder of the commands of an environment with the wheel, and with the packages of this one but this project."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    pip = [sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install"]
    subprocess.run([*pip, "--no-deps", "--quiet", wheel], check=True, capture_output=True, env=surroundings())
    # A path alone: what an editable install adds to one is in .pth files, which are read in site directories only.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return home / "bin"


@pytest.fixture
def run(installed, tmp_path):
    """Runs a command of that environment in an empty folder: run("ortho-lora", "--help")."""

    def start(name, *arguments):
        return subprocess.run(
            [installed / name, *map(str, arguments)],
            cwd=tmp_path, env=surroundings(), capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    return start


def surroundings(**more):
    """Of this process, without a path to the checkout."""
    left_out = ("PYTHONPATH", "ORTHO_LORA_RUNS_DIR")
    return {key: value for key, value in os.environ.items() if key not in left_out} | {"COLUMNS": "120"} | more


def test_a_wheel_carries_all_that_is_no_code_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        settings = tomllib.loads(file.read("app/.streamlit/config.toml").decode())
        (described,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(file.read(described))
    assert settings["server"]["address"] == "127.0.0.1"
    assert settings["browser"]["gatherUsageStats"] is False
    ours = {
        path.relative_to(ROOT).as_posix()
        for top in ("ortho_lora", "analysis", "app")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == ours
    assert {f"{top}/py.typed" for top in ("ortho_lora", "analysis", "app")} <= ours
    assert metadata["License-Expression"] == "MIT"
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not list(filter(NEVER_IN_A_WHEEL.search, names))


def test_it_is_imported_from_the_environment_and_not_from_the_checkout(run, installed):
    found = run("python", "-c", "import ortho_lora, analysis, app; print(ortho_lora, analysis, app)")
    assert found.stdout.count(str(installed.parent)) == 3, found.stderr
    assert str(ROOT) not in found.stdout


def test_the_command_names_all_commands_quickly(run):
    code = "import sys; from ortho_lora.command import joint; joint(); print(*sys.modules)"
    assert not {"torch", "plotly", "streamlit", "duckdb", "pandas"} & set(run("python", "-c", code).stdout.split())
    done = run("ortho-lora", "--help")
    assert done.returncode == 0
    named = {line.split()[1] for line in done.stdout.splitlines() if re.match(r"│ [a-z]", line)}
    assert named == {
        "train", "resume", "probe", "lookahead", "estimate", "study", "assets",
        "summary", "diagnose", "transfer", "replay", "report", "export", "results", "app",
    }  # fmt: skip
    assert "--install-completion" in done.stdout


def test_the_command_says_its_version(run):
    done = run("ortho-lora", "--version")
    assert (done.returncode, done.stdout) == (0, f"ortho-lora {PROJECT['version']}\n")


def test_a_shell_completes_commands(run, installed, tmp_path):
    done = subprocess.run(
        [installed / "ortho-lora"],
        env=surroundings(_ORTHO_LORA_COMPLETE="complete_bash", COMP_WORDS="ortho-lora di", COMP_CWORD="1"),
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["diagnose"]


@pytest.mark.parametrize(
    "command", ["summary", "diagnose", "replay", "report", "results", "resume", "probe", "lookahead"]
)
def test_bad_input_ends_every_command_alike(run, command):
    done = run("ortho-lora", command, "absent")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_facts_can_be_had_as_json(run):
    plan = json.loads(run("ortho-lora", "study", "quick", "--plan", "--json").stdout)
    told = run("ortho-lora", "study", "quick", "--plan").stdout
    assert plan["runs"]
    assert all(f"{one['run']}: {'; '.join(one['for'])}\n" in told for one in plan["runs"])
    assert all(f"{of['method']}: candidates {of['candidates']}, runs {of['runs']}" in told for of in plan["methods"])
    listed = json.loads(run("ortho-lora", "export", "--list", "--json").stdout)
    assert {"name", "description", "takes"} == set(listed[0])


MISSING = {
    "analysis": (["analysis", "summary", "absent"], ["duckdb", "plotly"], "duckdb and plotly are not installed"),
    "one of them": (["analysis", "export", "--list"], ["jinja2"], "jinja2 is not installed"),
    "app": (["app"], ["streamlit"], "streamlit is not installed"),
}


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_extra_is_named(name):
    (package, *arguments), missing, found = MISSING[name]
    extra = package
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({missing})); sys.argv[1:] = {arguments};"
        f"runpy.run_module({package!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    sentence = f"error: {found}, which the extra {extra!r} brings: pip install 'ortho-lora[{extra}]'.\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", sentence)


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [("analysis.reading.database", "duckdb", "analysis"), ("analysis.figures", "plotly", "analysis"),
     ("app.views.start", "streamlit", "app")],
)  # fmt: skip
def test_importing_says_which_extra_is_missing(module, missing, extra):
    code = f"import sys; sys.modules[{missing!r}] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert f"{missing} is not installed, which the extra {extra!r} brings" in done.stderr.splitlines()[-1]


def test_extras_bring_what_is_asked_for():
    """Each package that `require` names belongs to the extra that it names."""
    extras = {
        extra: {Requirement(line).name for line in lines} for extra, lines in PROJECT["optional-dependencies"].items()
    }
    asked = [
        (extra, package)
        for top in ("analysis", "app")
        for path in (ROOT / top).rglob("*.py")
        for extra, packages in re.findall(r'require\("(\w+)", (.+)\)', path.read_text())
        for package in re.findall(r'"(\w+)"', packages)
    ]
    assert len(asked) > 5
    assert all(package in extras[extra] for extra, package in asked)


def test_what_is_locked_and_what_was_oldest_lie_in_the_ranges():
    ranges = [*PROJECT["dependencies"], *(line for of in PROJECT["optional-dependencies"].values() for line in of)]
    wanted = {of.name: of.specifier for of in map(Requirement, ranges) if of.name != PROJECT["name"]}
    base = {Requirement(line).name for line in PROJECT["dependencies"]}
    for names in (["requirements.txt"], ["requirements-oldest.txt"]):
        found = pins(*names)
        assert base <= set(found)
        assert all(version in wanted[name] for name, version in found.items() if name in wanted)
    optional = pins(*(f"requirements-{extra}.txt" for extra in ("rules", "gguf", "ray", "trl", "qlora", "tensorboard")))
    assert all(version in wanted[name] for name, version in optional.items())


def test_the_container_file_installs_what_the_dashboard_needs_and_nothing_that_trains():
    text = (ROOT / "Containerfile").read_text()
    installed = re.search(r"--constraint requirements.txt \\\n(.*?)\nWORKDIR", text, re.S)[1].replace("\\", "").split()
    extras = PROJECT["optional-dependencies"]
    needed = {Requirement(line).name for line in [*PROJECT["dependencies"], *extras["analysis"], *extras["app"]]}
    trains = {"torch", "transformers", "peft", "accelerate", "safetensors", "datasets"}
    assert set(installed) == needed - trains - {PROJECT["name"]}
    assert trains < needed
    assert re.findall(r"^COPY (\w+) \1$", text, re.M) == ["ortho_lora", "analysis", "app"]


def pins(*names):
    lines = [line for name in names for line in (ROOT / name).read_text().splitlines()]
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


@pytest.fixture(scope="module")
def trained(installed, tmp_path_factory):
    """The demo run in short, by the command as installed."""
    runs = tmp_path_factory.mktemp("elsewhere") / "runs"
    config = ROOT / "examples" / "demo.yaml"
    done = subprocess.run(
        [installed / "ortho-lora", "train", "--config", config, "--steps", "2", "--set", "eval_every=2",
         "--set", "max_length=16", "--set", "batch_size=4", "--set", "eval_examples=8", "--set", "snapshot_batches=8",
         "--runs-dir", runs, "--name", "demo"],
        cwd=runs.parent, env=surroundings(), capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(runs / "demo")
    return runs


def test_the_demo_is_trained_and_looked_at(trained, run):
    document = json.loads(run("ortho-lora", "summary", trained / "demo", "--json").stdout)
    assert (document["state"], document["step"]) == ("finished", 2)
    assert len(document["pairs"]) == 18  # of four tasks, on the whole model and on two branches
    written = run("ortho-lora", "report", trained / "demo", "-o", trained / "demo.html", "--json")
    assert json.loads(written.stdout)["bytes"] == (trained / "demo.html").stat().st_size


def test_the_dashboard_opens_from_another_folder(trained, installed, tmp_path):
    (tmp_path / "home").mkdir()
    environment = surroundings(ORTHO_LORA_RUNS_DIR=str(trained), HOME=str(tmp_path / "home"))
    with (tmp_path / "output").open("wb") as output:
        process = psutil.Popen(
            [installed / "ortho-lora", "app", "--server.port", "0"],
            cwd=tmp_path, env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        while not (found := [one.laddr for one in process.net_connections("inet") if one.status == "LISTEN"]):
            assert process.poll() is None, (tmp_path / "output").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        ((address, port),) = found
        assert address == "127.0.0.1"
        for page in ("", "_stcore/health"):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}") as answer:
                assert answer.status == 200
        assert "usage statistics" not in (tmp_path / "output").read_text()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_ctrl_c_ends_a_command_with_130_and_no_words(tmp_path):
    """While it imports what a training needs."""
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # who runs tests may ignore it
        "class Interrupts:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        f"sys.argv = ['ortho-lora', 'train', '--tasks', 'trec', '--runs-dir', {str(tmp_path)!r}]\n"
        "from ortho_lora.command import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (130, "")
    assert "Traceback" not in done.stderr
