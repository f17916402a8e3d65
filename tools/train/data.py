"""The text: Jane Austen's six novels, from the Debian package r-cran-janeaustenr, and crops of it for training.

    python tools/train/data.py --package DIR [--excerpt FILE]

DIR is the folder `janeaustenr` of the package, after installation /usr/lib/R/site-library/janeaustenr. The novels were
published between 1811 and 1818 and are in the public domain. Five of them are for training; Persuasion is held out.
"""

import argparse
import zlib
from pathlib import Path

import numpy as np

PACKAGE = Path("/usr/lib/R/site-library/janeaustenr")
TRAINING = ["sensesensibility", "prideprejudice", "mansfieldpark", "emma", "northangerabbey"]
HELD_OUT = "persuasion"

# Types of R's serialisation format, version 3 in XDR (R Internals, section 1.8).
SYMBOL, PAIRS, CHARS, LOGICALS, INTEGERS, STRINGS, LIST, REFERENCE, NIL = 1, 2, 9, 10, 13, 16, 19, 255, 254


class Serialised:
    """Reads R's serialised values as far as a database of character vectors needs them."""

    def __init__(self, data):
        if data[:2] != b"X\n":
            raise ValueError("expected R data in XDR form")
        self.data, self.at, self.symbols = data, 2, []
        version = self.integers(3)[0]
        if version == 3:
            self.bytes(self.integer())

    def bytes(self, size):
        self.at += size
        return self.data[self.at - size : self.at]

    def integers(self, count):
        return np.frombuffer(self.bytes(4 * count), ">i4").tolist()

    def integer(self):
        return self.integers(1)[0]

    def value(self):
        """The next value: a list, a dict of a pair list, or text; attributes `names` make a dict of a list."""
        flags = self.integer()
        kind, attributes = flags & 255, flags & 0x200
        if kind == SYMBOL:
            self.symbols.append(self.value())
            return self.symbols[-1]
        if kind == REFERENCE:
            return self.symbols[(flags >> 8) - 1]
        if kind == CHARS:
            size = self.integer()
            return None if size < 0 else self.bytes(size).decode("utf-8")
        if kind == NIL:
            return {}
        if kind == PAIRS:
            tag = self.value() if flags & 0x400 else ""
            head = self.value()
            return {tag: head} | self.value()
        if kind in (LOGICALS, INTEGERS):
            found = self.integers(self.integer())
        elif kind in (STRINGS, LIST):
            found = [self.value() for _ in range(self.integer())]
        else:
            raise ValueError(f"expected text, found R's type {kind}")
        names = self.value().get("names") if attributes else None
        return dict(zip(names, found)) if names else found


def books(package):
    """Name -> lines, of the package's lazy-load database: an index, and zlib blocks behind their unpacked sizes."""
    index = Serialised(zlib.decompress((package / "data" / "Rdata.rdx").read_bytes(), 31)).value()
    blocks = (package / "data" / "Rdata.rdb").read_bytes()
    unpack = {name: zlib.decompress(blocks[at + 4 : at + size]) for name, (at, size) in index["variables"].items()}
    return {name: Serialised(block).value() for name, block in unpack.items()}


def prose(lines):
    """The bytes of a book, with one line per paragraph and an empty line between paragraphs."""
    paragraphs = "\n".join(line.strip() for line in lines).split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip())
    return text.encode("utf-8") + b"\n"


def texts(package):
    """(training text, held-out text) as bytes."""
    found = books(Path(package))
    return b"\n\n".join(prose(found[name]) for name in TRAINING), prose(found[HELD_OUT])


class Crops:
    """Random crops of a text. The state of the random generator is a part of the checkpoint."""

    def __init__(self, text, length, batch, seed):
        self.text = np.frombuffer(text, np.uint8)
        self.length, self.batch, self.rng = length, batch, np.random.default_rng(seed)

    def __next__(self):
        """[batch, length + 1] bytes as int64."""
        starts = self.rng.integers(len(self.text) - self.length, size=self.batch)
        return self.text[starts[:, None] + np.arange(self.length + 1)].astype(np.int64)

    def state(self):
        return self.rng.bit_generator.state

    def restore(self, state):
        self.rng.bit_generator.state = state


def excerpt(text, most=65536):
    """The first whole paragraphs of a text, at most 64 KiB."""
    return text[: text.rindex(b"\n\n", 0, most) + 1]


def main():
    parser = argparse.ArgumentParser(description="Sizes of the training text and of the held-out text.")
    parser.add_argument("--package", type=Path, default=PACKAGE, metavar="DIR")
    parser.add_argument("--excerpt", type=Path, metavar="FILE", help="write the start of the held-out text there")
    args = parser.parse_args()
    training, held_out = texts(args.package)
    print(f"training {len(training)} bytes, held out {len(held_out)} bytes")
    if args.excerpt:
        args.excerpt.write_bytes(excerpt(held_out))


if __name__ == "__main__":
    main()
