"""Processes that start and end sooner, and lose nothing by it."""

import gc
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from panorama import quick


def ended(code: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_who_leaves_has_written_what_was_printed() -> None:
    said = "import atexit, sys, os; atexit.register(print, 'last'); print('end'); sys.stderr.write('told'); "
    left = ended(said + "from panorama import quick; quick.leave(3)")
    assert (left.stdout, left.stderr, left.returncode) == ("end\nlast\n", "told", 3)
    assert ended(said + "os._exit(3)").stdout == "", "the control: without it what was printed last is lost"


@pytest.mark.parametrize("gone", ["sys.stdout.write('x'); os.close(1)", "sys.stdout = None"])
def test_who_leaves_after_nobody_reads_any_more_says_nothing(gone: str) -> None:
    left = ended(f"import os, sys; {gone}; from panorama import quick; quick.leave(0)")
    assert (left.stderr, left.returncode) == ("", 0)


def test_garbage_is_not_looked_for_while_importing_only() -> None:
    assert gc.isenabled()
    with quick.imports():
        assert not gc.isenabled()
        with quick.imports():
            pass
        assert not gc.isenabled(), "it was off before"
    assert gc.isenabled()
    with pytest.raises(ImportError), quick.imports():
        raise ImportError
    assert gc.isenabled()


@pytest.mark.parametrize(("module", "arguments"), [("panorama.worker", ["nowhere"]), ("panorama", ["resume", "nowhere"])])
def test_programs_look_for_garbage_again_when_they_work(module: str, arguments: list[str]) -> None:
    """The module as a program; what comes right after its imports asks."""
    code = f"""
import gc, runpy, sys
from panorama import processes, runs
class AskedError(BaseException): pass
def ask(*_):
    print(gc.isenabled())
    raise AskedError
if {module!r} == "panorama":
    processes.join = ask
else:
    runs.Run = ask
sys.argv = [{module!r}, *{arguments!r}]
try:
    runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
except AskedError:
    pass
"""
    found = ended(code)
    assert found.stdout == "True\n", found.stderr
