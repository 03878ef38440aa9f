"""Runs a program for as long as standard input is open, and ends it then with all that it has started.

A test that is killed cannot clean up after itself, but the pipe that it held closes. This stands in a session of its own,
so that what ends the test (Ctrl-C reaches all of its process group) does not end this first.
"""

import os
import signal
import subprocess
import sys
import threading

PATIENCE_SECONDS = 5

program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)


def tell_all(number):
    try:
        os.killpg(program.pid, number)
    except ProcessLookupError:
        pass


def end_when_closed():
    while os.read(0, 4096):
        pass
    tell_all(signal.SIGTERM)
    try:
        program.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        tell_all(signal.SIGKILL)


threading.Thread(target=end_when_closed, daemon=True).start()
code = program.wait()
tell_all(signal.SIGKILL)
sys.exit(code if code >= 0 else 128 - code)
