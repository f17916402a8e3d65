"""Times subquad and the other libraries in turns, so that temporary slowdowns of the machine affect all of them.

subquad is a process that stays alive (examples/turns.rs): it prints its device and clock, then "ready"; for every line it
reads it runs once and prints the seconds. The others run in this process.

On the CPU a pause before each turn lets the previous form's threads go to sleep: onnxruntime's spin for 40 ms after their
work. If a form gets less CPU time than its cores allow, a message says so: other work uses them, and the figures must not
be quoted.

On CUDA a turn is as many calls as take TURN seconds, between two events on the GPU, after one untimed call. Two modes are
timed: "eager", which includes Python's launch time whenever the GPU waits for it, and one call captured as a CUDA graph and
replayed. Inputs that fit the GPU's cache stay in it, for subquad as well.
"""

import contextlib
import math
import os
import subprocess
import tempfile
import time

import numpy as np

PAUSE = {"cpu": 0.1, "cuda": 0.02}
TURN = 0.02
MOST_CALLS = 1000
TRIES = 3  # turns of each form before the fastest is chosen


class Failed(Exception):
    """subquad refused the case, with its sentence."""


def relative_rms(found, want):
    want = want.astype(np.float64)
    return float(np.sqrt(((found - want) ** 2).sum() / (want**2).sum()))


class Wall:
    """A form on the CPU. A turn is one call."""

    def __init__(self, form):
        self.form = form
        self.busy = self.spent = 0.0
        self.turn()

    def result(self):
        return self.form.result()

    def turn(self):
        time.sleep(PAUSE["cpu"])
        with self.form.around():
            start, busy = time.perf_counter(), time.process_time()
            self.form.call()
            seconds = time.perf_counter() - start
            self.busy += time.process_time() - busy
        self.spent += seconds
        return seconds

    def begin(self):
        """From here on cores() counts."""
        self.busy = self.spent = 0.0

    def cores(self):
        """CPU seconds for each second of its turns."""
        return self.busy / self.spent


class Eager:
    """A form on CUDA with eager calls."""

    def __init__(self, form):
        self.form, self.call, self.count = form, form.call, 1
        self.size_turns()

    def size_turns(self):
        self.turn()  # compiles and tunes
        self.count = max(1, min(MOST_CALLS, math.ceil(TURN / max(self.turn(), 1e-7))))

    def result(self):
        return self.form.result()

    def turn(self):
        from torch import cuda

        time.sleep(PAUSE["cuda"])
        start, end = (cuda.Event(enable_timing=True) for _ in range(2))
        with self.form.around():
            self.call()
            cuda.synchronize()
            start.record()
            for _ in range(self.count):
                self.call()
            end.record()
        cuda.synchronize()
        return start.elapsed_time(end) * 1e-3 / self.count

    def begin(self):
        pass

    def cores(self):
        return None


class Graph(Eager):
    """A form on CUDA, one call captured as a graph. The warm-up before a capture needs its own stream."""

    def __init__(self, form):
        from torch import cuda

        self.form, self.count = form, 1
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with form.around(), cuda.stream(side):
            for _ in range(3):
                form.call()
        cuda.current_stream().wait_stream(side)
        cuda.synchronize()
        self.graph = cuda.CUDAGraph()
        with form.around(), cuda.graph(self.graph):
            self.output = form.call()
        self.call = self.graph.replay
        self.size_turns()

    def result(self):
        from torch import cuda

        self.graph.replay()
        cuda.synchronize()
        return self.form.unpack(self.output)


# Device -> mode -> its clock.
WAYS = {"cpu": {"": Wall}, "cuda": {"eager": Eager, "graph": Graph}}


def fastest(clocks):
    """The minimum of each, which decides the fastest form."""
    return [min(clock.turn() for _ in range(TRIES)) for clock in clocks]


class Ours:
    """One of our operators on the tensors of a file, in a separate process; a turn is one run.

    on: its device; clock: what its seconds measure; both as it prints them.
    """

    def __init__(self, binary, adapter, case, source, target=None):
        command = [binary, case.entry.op, "--input", source, "--threads", case.threads, "--adapter", adapter]
        command += ["--carry"] * (case.entry.carry and case.causal)
        for flag in case.entry.flags(case):
            command += ["--flag", flag]
        if target:
            command += ["--output", target]
        self.device, self.said = case.device, {}
        self.errors = tempfile.TemporaryFile("w+")
        self.begun = self.spent = 0.0
        try:
            self.process = subprocess.Popen(
                [str(x) for x in command],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, bufsize=1,
            )  # fmt: skip
        except OSError as error:
            raise Failed(f"{binary} does not start: {error.strerror}") from None
        while (line := self.line()) != "ready":
            word, _, rest = line.partition(" ")
            self.said[word] = rest

    @property
    def on(self):
        return self.said.get("on", "")

    @property
    def clock(self):
        return self.said.get("clock", "")

    def fail(self):
        status = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        raise Failed(lines[-1].removeprefix("turns: ") if lines else f"the process ended early, status {status}")

    def line(self):
        line = self.process.stdout.readline()
        return line.strip() if line else self.fail()

    def turn(self):
        time.sleep(PAUSE[self.device])
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.fail()
        seconds = float(self.line())
        self.spent += seconds
        return seconds

    def busy(self):
        """CPU seconds of the process so far, as the kernel counts them; None if that is not available."""
        try:
            with open(f"/proc/{self.process.pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def begin(self):
        self.begun, self.spent = self.busy(), 0.0

    def cores(self):
        """Like Wall.cores; None on an adapter, or if the kernel's count (in steps of 10 ms) is too coarse."""
        busy = self.busy()
        if busy is None or self.begun is None or self.spent < 0.2 or not self.on.startswith("cpu"):
            return None
        return (busy - self.begun) / self.spent

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        """Ends the process after it has written its output, or at once after a failure."""
        if kind:
            self.process.kill()
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        status = self.process.wait(timeout=600)
        if status != 0 and not kind:
            self.fail()
        self.errors.close()


def alternate(turns, runs):
    """Seconds of each form: `runs` rounds, in which every form takes one turn."""
    for turn in turns:
        turn.begin()
    seconds = [[] for _ in turns]
    for _ in range(runs):
        for turn, times in zip(turns, seconds, strict=True):
            times.append(turn.turn())
    return seconds
