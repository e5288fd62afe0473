import os
import re
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from pellucid import __version__
from pellucid.__main__ import main as started
from pellucid.cli import main


def run(*arguments, **options):
    """The command line in a process of its own, as a user starts it."""
    environment = os.environ | {"COLUMNS": "80"} | options.pop("env", {})
    return subprocess.run(
        [sys.executable, "-m", "pellucid", *arguments],
        capture_output=True, encoding="utf-8", env=environment, timeout=120, **options,
    )  # fmt: skip


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"pellucid {__version__}\n"


@pytest.mark.parametrize("command", ["show", "view", "explain"])
def test_help_has_examples_that_are_commands(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert len(re.findall(rf"^  (echo .* \| )?pellucid {command}", out, re.MULTILINE)) >= 3
    assert max(map(len, out.splitlines())) <= 80


def test_no_command_gets_the_help(capsys):
    assert main([]) == 2
    out = capsys.readouterr().out
    assert all(re.search(rf"^    {command} ", out, re.MULTILINE) for command in ("show", "explain", "doctor"))


def test_an_unknown_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["shwo"])
    assert stop.value.code == 2
    assert "invalid choice: 'shwo'" in capsys.readouterr().err


@pytest.mark.parametrize(("told", "message"), [((), ""), (("run.attn holds 3 layers",), "; run.attn holds 3 layers")])
def test_an_interrupt_is_one_line(capsys, monkeypatch, told, message):
    def interrupted(options):
        raise KeyboardInterrupt(*told)

    monkeypatch.setattr("pellucid.commands.doctor.run", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr() == ("", f"\npellucid: interrupted{message}\n")


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def broken(options):
        raise ValueError("a fault")

    monkeypatch.setattr("pellucid.commands.doctor.run", broken)
    with pytest.raises(ValueError, match="a fault"):
        main(["doctor"])


def test_a_process_ends_with_the_status():
    process = run("explain", "--tokens", "0")
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    process = run("explain", "--tokens", "3", "--dim", "2")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("Self-attention\n")


def test_bad_input_has_no_traceback():
    process = run("show", "--file", "none.txt")
    assert process.returncode == 1
    assert process.stderr == "pellucid: --file none.txt: No such file or directory\n"


@pytest.mark.parametrize("command", ["explain", "doctor"])
def test_a_closed_pipe_is_quiet(command):
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pellucid", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=buffered
    )
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(timeout=120) == 141


def test_an_output_that_is_not_unicode():
    process = run("explain", "--tokens", "2", "--dim", "2", env={"PYTHONIOENCODING": "ascii"})
    assert (process.returncode, process.stderr) == (0, "")
    assert "scores = Q @ K.T / ?2 [2, 2]" in process.stdout


WAITING = """
import sys, time
from pellucid.__main__ import main

def wait(*_):
    print("waiting", flush=True)
    try:
        time.sleep(100)
    except BaseException:
        pass  # as some packages do while they are imported

class Loading:
    def find_spec(self, name, path=None, target=None):
        return wait() if name == "torch" else None

if "{where}" == "loading":
    sys.meta_path.insert(0, Loading())
else:
    from pellucid.commands import texts
    texts.from_standard_input = lambda: print("waiting", flush=True) or time.sleep(100)
sys.argv[1:] = ["show", "-"]
raise SystemExit(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no signal there")
@pytest.mark.parametrize("where", ["loading", "running"])
def test_ctrl_c_ends_a_process_quietly(where):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING.format(where=where)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process.stdout, process.stderr:
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130
        assert process.stderr.read() == b"\npellucid: interrupted\n"


WITHOUT_TORCH = """
import sys
from pellucid.__main__ import main

try:
    main()
finally:
    assert not {"torch", "numpy", "rich", "transformers"} & set(sys.modules)
"""


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ("--help", 0),
        ("--version", 0),
        ("watch --help", 0),
        ("", 0),  # the help again
        ("shwo", 2),
        ("show --head first", 2),
        ("explain --tokens 0", 2),
        ("explain --text 3 --seed 1", 2),
    ],
)
def test_help_and_wrong_usage_do_not_wait_for_torch(arguments, status):
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments.split()], capture_output=True, encoding="utf-8", timeout=120
    )
    assert process.returncode == status
    assert "Traceback" not in process.stderr


def test_the_script_is_the_command_line():
    project = Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8")
    (script,) = re.findall(r"^\[project\.scripts\]\npellucid = \"(.*)\"$", project, re.MULTILINE)
    assert metadata.EntryPoint("pellucid", script, "console_scripts").load() is started
