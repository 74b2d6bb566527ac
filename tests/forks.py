"""Commands in processes of their own without the seconds that each would need to import torch.

A process that has imported everything, and done nothing else, forks once per command: arguments, folder, environment,
output and exit code are the fork's own. A few tests start the commands from scratch all the same.
"""

import atexit
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Forks:
    """Starts commands; each is a `python -m MODULE ARGUMENTS...`."""

    def __init__(self):
        self.parent = None

    def start(self, module, *arguments, cwd=None, stdout, stderr, **environment):
        """Start a command, and return the id of its process."""
        if self.parent is None:
            command = [sys.executable, "-W", "error::ResourceWarning", "-m", "tests.forks"]
            self.parent = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        request = {
            "arguments": [module, *map(str, arguments)],
            "cwd": str(cwd or os.getcwd()),
            "environment": {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(ROOT), **environment},
            "stdout": str(stdout),
            "stderr": str(stderr),
        }
        return self._ask({"start": request})

    def wait(self, pid):
        """Return the exit code of a command, as subprocess does."""
        return self._ask({"wait": pid})

    def run(self, folder, module, *arguments, cwd=None, **environment):
        """Run a command to its end, with its output in files of a folder."""
        stdout, stderr = folder / "stdout", folder / "stderr"
        pid = self.start(module, *arguments, cwd=cwd, stdout=stdout, stderr=stderr, **environment)
        return subprocess.CompletedProcess(arguments, self.wait(pid), stdout.read_text(), stderr.read_text())

    def _ask(self, request):
        self.parent.stdin.write(json.dumps(request) + "\n")
        self.parent.stdin.flush()
        return json.loads(self.parent.stdout.readline())

    def close(self):
        if self.parent is not None:
            self.parent.communicate()


def _become(request):
    """Turn a fork into the command; never returns."""
    code = 1
    try:
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environment"])
        for number, name in ((0, os.devnull), (1, request["stdout"]), (2, request["stderr"])):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            descriptor = os.open(name, flags)
            os.dup2(descriptor, number)
            os.close(descriptor)
        # The parent's streams are those of a pipe; a command may write to a terminal.
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
        sys.argv = request["arguments"]
        sys.path[0] = request["cwd"]
        sys.path.insert(1, str(ROOT))
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(pid):
    """Return the exit code of a child, which is killed where it would hang a test."""
    deadline = time.monotonic() + 200
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def main():
    import summer_train.cli
    import summer_train.reports.report
    import summer_train.runs.fit
    import summer_train.studies.study  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            answer = os.fork()
            if not answer:
                _become(request["start"])
        else:
            answer = _wait(request["wait"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
