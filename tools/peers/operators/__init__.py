"""Every entry there is: an operator adds its file here, which holds all that is known of its peers."""

from . import conv1d, linear, linformer, mamba, slay, softmax

ENTRIES = (*softmax.ENTRIES, *linformer.ENTRIES, *linear.ENTRIES, *slay.ENTRIES, *conv1d.ENTRIES, *mamba.ENTRIES)


def find(word):
    """The entries that a word on the command line means: one by its name, or all of an operator."""
    return [entry for entry in ENTRIES if word in (entry.name, entry.op)]
