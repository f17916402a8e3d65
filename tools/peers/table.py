"""The results: rows, the machine they come from, and the output formats."""

import csv
import dataclasses
import io
import json
import os
import platform
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# library, version (the commit is above the table), form, mode
OURS = ("subquad", "subquad", "", "")


@dataclass
class Row:
    """One implementation of one case.

    dtype: its storage type; ours is f32 if the others use bf16. seconds: one per turn. cores: CPU seconds per second, if it
    runs on the CPU. rms: relative RMS of its output against ours. ours_min, ours_median: how many times faster ours is.
    """

    operator: str
    mask: str
    shape: str
    dtype: str
    library: str
    version: str
    form: str
    way: str
    seconds: list
    cores: float | None = None
    rms: float | None = None
    ours_min: float | None = None
    ours_median: float | None = None

    @property
    def implementation(self):
        way = f", {self.way}" if self.way else ""
        return f"{self.version}{' ' if self.form else ''}{self.form}{way}"

    def milliseconds(self):
        """least, median, 10th and 90th percentile"""
        ms = np.array(self.seconds) * 1e3
        return float(ms.min()), float(np.median(ms)), *(float(x) for x in np.percentile(ms, (10, 90)))

    def compare(self, ours):
        """A row, compared with our seconds in the same case."""
        self.ours_min = min(self.seconds) / min(ours)
        self.ours_median = statistics.median(self.seconds) / statistics.median(ours)


@dataclass
class Report:
    """The complete report. about: label -> machine, versions, commit."""

    about: dict
    missing: dict = dataclasses.field(default_factory=dict)
    notes: list = dataclasses.field(default_factory=list)
    rows: list = dataclasses.field(default_factory=list)


def output_of(*command):
    """A command's output without the newline; None if it is not installed or fails."""
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else None


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cores():
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def load():
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def machine(root):
    """The parts of `about` that are known before anything runs."""
    about = {"machine": f"{processor()}, {cores()} cores, {platform.system()} {platform.release()}"}
    gpu = output_of("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    if gpu:
        about["gpu"] = "; ".join(line.replace(", ", ", driver ") for line in gpu.splitlines())
    about["commit"] = output_of("git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12") or "unknown"
    about["load"] = f"{load():.2f} in the minute before"
    return about


def number(value, digits=2):
    return "" if value is None else f"{value:.{digits}f}"


HEADER = (
    "operator", "form", "shape", "dtype", "implementation",
    "min ms", "median", "p10", "p90", "ours x min", "x median", "rel. RMS",
)  # fmt: skip
TEXT_COLUMNS = 5  # left-aligned columns; the others are numbers


def cells(row):
    digits = 4 if min(row.seconds) < 1e-3 else 2
    return (
        row.operator, row.mask, row.shape, row.dtype, row.implementation,
        *(number(ms, digits) for ms in row.milliseconds()),
        number(row.ours_min), number(row.ours_median), "" if row.rms is None else f"{row.rms:.1e}",
    )  # fmt: skip


def heading(report):
    """Lines above the table."""
    lines = [f"{name}: {text}" for name, text in report.about.items()]
    lines += [f"missing: {name} ({reason})" for name, reason in report.missing.items()] or ["missing: none"]
    return [*lines, "ours x: how many times as fast as this implementation ours is, by least and by median time"]


def text(report):
    rows = [HEADER, *(cells(row) for row in report.rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]

    def line(row):
        sides = "<" * TEXT_COLUMNS + ">" * (len(row) - TEXT_COLUMNS)
        return "  ".join(f"{c:{side}{width}}" for c, side, width in zip(row, sides, widths, strict=True)).rstrip()

    return "\n".join([*heading(report), "", *map(line, rows), *([""] if report.notes else []), *report.notes]) + "\n"


def markdown(report):
    def line(row):
        return f"| {' | '.join(row)} |"

    rule = line(["---" if i < TEXT_COLUMNS else "---:" for i in range(len(HEADER))])
    table = [line(HEADER), rule, *(line(cells(row)) for row in report.rows)]
    lists = [[f"- {item}" for item in items] for items in (heading(report), report.notes)]
    return "\n".join([*lists[0], "", *table, "", *lists[1]]).rstrip() + "\n"


def record(row):
    """A row for csv and json: the raw measurements and the table's figures."""
    least, median, p10, p90 = row.milliseconds()
    return dataclasses.asdict(row) | {"min_ms": least, "median_ms": median, "p10_ms": p10, "p90_ms": p90}


def as_csv(report):
    """One line per row; seconds joined by spaces; every line has the machine's columns, so that files can be joined."""
    file = io.StringIO()
    about = dict(report.about, missing="; ".join(f"{name} ({reason})" for name, reason in report.missing.items()))
    names = [field.name for field in dataclasses.fields(Row)] + ["min_ms", "median_ms", "p10_ms", "p90_ms"]
    writer = csv.DictWriter(file, [*names, *about], lineterminator="\n")
    writer.writeheader()
    for row in report.rows:
        one = record(row)
        writer.writerow(one | about | {"seconds": " ".join(f"{x:.9f}" for x in row.seconds)})
    return file.getvalue()


def as_json(report):
    rows = [record(row) for row in report.rows]
    whole = {"schema": 1, "about": report.about, "missing": report.missing, "notes": report.notes, "rows": rows}
    return json.dumps(whole, indent=1) + "\n"


FORMATS = {"table": text, "md": markdown, "csv": as_csv, "json": as_json}
