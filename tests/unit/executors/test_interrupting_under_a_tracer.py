"""An interruption leaves nothing behind that makes a traced interpreter spin."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys, threading, time
from tasker.executors.interrupts import HandlerInterrupted, Interrupter

def interrupted():
    interrupter = Interrupter()
    def work():
        while True:
            time.sleep(0.001)
    def expose(interrupt):
        if interrupt is not None:
            threading.Timer(0.05, interrupt).start()
    try:
        interrupter.run(work, expose)
    except HandlerInterrupted:
        print("interrupted", flush=True)

def called():
    pass

def traced():
    sys.settrace(lambda *event: None)
    for _ in range(100):
        called()
    print("done", flush=True)

for body in (interrupted, traced):
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
"""


def test_after_an_interruption_traced_code_still_runs() -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=30, check=True)
    assert ran.stdout.split() == ["interrupted", "done"]
