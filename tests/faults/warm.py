"""Starts disturbed runs by forking a process that has loaded everything: a run costs a second instead of five.

Reads one JSON request a line and answers each by one JSON line: {"start": …} → {"pid"}, {"wait": pid} → {"code",
"output"}. JAX's backend, which has threads, is started in the forked processes only.
"""

import json
import os
import signal
import sys
import traceback

import tiny

LIMIT = 240  # seconds after which a run counts as hanging


def start(request: dict) -> tuple[int, int]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    code = 70
    try:
        os.close(reading)
        signal.alarm(LIMIT)
        for descriptor in (1, 2):
            os.dup2(writing, descriptor)
        code = tiny.main(request["folder"], request["fault"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    pipes = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            pid, pipes_end = start(request["start"])
            pipes[pid] = pipes_end
            answer = {"pid": pid}
        else:
            pid = request["wait"]
            with os.fdopen(pipes.pop(pid), "rb") as pipe:
                output = pipe.read().decode(errors="replace")
            answer = {"code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), "output": output}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
