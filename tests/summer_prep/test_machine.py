"""Things of a machine that processes share out among themselves, like GPUs."""

import subprocess
import sys

HOLDER = """
import sys
from summer_prep.machine import own_one_of
print(own_one_of(2, "thing"), own_one_of(2, "thing"), flush=True)
sys.stdin.read()
"""


def test_processes_take_one_each_until_they_end(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return process, process.stdout.readline().split()

    holders = [start() for _ in range(2)]
    assert [numbers for _, numbers in holders] == [["0", "0"], ["1", "1"]]
    third, numbers = start()
    assert numbers[0] in "01"  # shared: there are two
    holders[0][0].kill()
    holders[0][0].communicate()
    fourth, numbers = start()
    assert numbers == ["0", "0"]
    for process in (holders[1][0], third, fourth):
        process.communicate("")
