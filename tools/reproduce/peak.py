"""Runs a command, then prints the peak resident size of its process in bytes as the last line.

This is a separate program because Linux starts a process's peak at the size of the process that forked it. This one is small
(about 10 MB); one that has loaded numpy and matrices is not. Peaks below its own size cannot be measured.
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
