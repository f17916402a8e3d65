"""Runs a command and then prints, as the last line, the peak resident size of its process in bytes.

A program of its own because the size Linux reports for a process starts at that of the process that forked it: this one
is small (about 10 MB), while one that has loaded numpy and matrices is not. Sizes under its own cannot be seen.
"""

import os
import sys


def main():
    process = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
    _, status, usage = os.wait4(process, 0)
    print(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
    sys.exit(os.waitstatus_to_exitcode(status) != 0)


if __name__ == "__main__":
    main()
