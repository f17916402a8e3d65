"""All entries. Each operator has a file here with its peers."""

from . import conv1d, delta, gated, linear, linformer, mamba, mta, slay, softmax, ssd

FILES = (softmax, linformer, linear, gated, delta, slay, conv1d, mamba, ssd, mta)
ENTRIES = tuple(entry for file in FILES for entry in file.ENTRIES)


def find(word):
    """The entries for a word on the command line: one entry by name, or all entries of an operator."""
    return [entry for entry in ENTRIES if word in (entry.name, entry.op)]
