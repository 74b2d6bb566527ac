"""Run a command of which permissions stop even root: python -m tests.unprivileged MODULE ARGUMENTS..."""

import ctypes
import runpy
import sys

OVERRIDES = (1, 2)
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""

if __name__ == "__main__":
    libc = ctypes.CDLL(None)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, sets)
    for capability in OVERRIDES:
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP, for the processes that the command starts
        for number in (0, 1, 2):  # effective, permitted, inheritable
            sets[number] &= ~(1 << capability)
    libc.capset(header, sets)
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
