"""The command `subquad`, as the Rust package has it."""

import sys

from . import _core


def main():
    sys.exit(_core.command(["subquad", *sys.argv[1:]]))
