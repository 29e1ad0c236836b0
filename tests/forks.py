"""Python programs in processes of their own that begin at once: forked from one that has imported what takes seconds.

Each ends as any does: its exit handlers run, its threads are waited for, and the system learns its exit status.
"""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

TRAINING = ("ortho_lora.trainers.trainer", "ortho_lora.training.resume", "analysis.__main__")
"""What examples, benchmarks and the loops of the documentation need."""

SERVER = """
import importlib, json, os, runpy, sys

for name in sys.argv[1:]:
    importlib.import_module(name)
for line in sys.stdin:
    if not (child := os.fork()):
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()

given = json.loads(line)
os.chdir(given["cwd"])
os.environ.clear()
os.environ.update(given["env"])
for number, name in enumerate((os.devnull, given["stdout"], given["stderr"])):
    opened = os.open(name, os.O_WRONLY if number else os.O_RDONLY)
    os.dup2(opened, number)
    os.close(opened)
sys.path[:1] = given["path"]
program, *sys.argv = given["arguments"]
if program == "-m":
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:  # in this module, so that what is left at its end is left when the process ends
    code = sys.argv.pop(0) if program == "-c" else open(program).read()
    sys.argv.insert(0, program)
    __file__ = program
    exec(compile(code, program, "exec"))
"""


class Forks:
    """Runs programs one after another."""

    def __init__(self, modules: Sequence[str]) -> None:
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER, *modules], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        atexit.register(self.server.__exit__, None, None, None)  # closes its pipes, whereupon it ends

    def run(
        self, arguments: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """As `subprocess.run([sys.executable, *arguments])`, which captures the output and checks nothing."""
        env = os.environ if env is None else env
        first = "" if arguments[0] in ("-c", "-m") else str(Path(arguments[0]).resolve().parent)
        path = [first, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
        with tempfile.TemporaryDirectory() as directory:
            texts = {name: Path(directory) / name for name in ("stdout", "stderr")}
            for text in texts.values():
                text.touch()
            given = {"cwd": str(cwd or Path.cwd()), "env": dict(env), "arguments": list(arguments), "path": path}
            self.server.stdin.write(json.dumps(given | {name: str(text) for name, text in texts.items()}) + "\n")
            self.server.stdin.flush()
            code = int(self.server.stdout.readline())
            return subprocess.CompletedProcess(arguments, code, *(text.read_text() for text in texts.values()))


@cache
def forks(*modules: str) -> Forks:
    """Where these are imported already; one of its kind in a worker."""
    return Forks(modules)
