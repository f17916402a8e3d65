"""Helpers that write the pages of the reproductions. Used by the report.py of each paper."""

MIB = 2.0**20


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(str(x) for x in row) + " |" for row in rows])
