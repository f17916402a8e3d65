"""Every entry there is: an operator adds its file here, which holds all that is known of its peers."""

from . import conv1d, delta, gated, linear, linformer, mamba, mta, slay, softmax, ssd

FILES = (softmax, linformer, linear, gated, delta, slay, conv1d, mamba, ssd, mta)
ENTRIES = tuple(entry for file in FILES for entry in file.ENTRIES)


def find(word):
    """The entries that a word on the command line means: one by its name, or all of an operator."""
    return [entry for entry in ENTRIES if word in (entry.name, entry.op)]
