"""Writes a file of tests/goldens and prints what is in it. The scripts beside this one use it."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import tensorfile  # noqa: E402

FOLDER = ROOT / "tests" / "goldens"


def save(script, operator, name, tensors, source, flags, layout="bhnd", agree=""):
    """Tensors of one run of an operator. `script` is the file that made them, `agree` says how far a second form of them is."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{operator}_{name}.safetensors"
    tensorfile.save(path, tensors, {
        "operator": operator,
        "source": source,
        "flags": flags,
        "layout": layout,
        "script": Path(script).resolve().relative_to(ROOT).as_posix(),
    })
    print(f"{path.name}: {path.stat().st_size} bytes{agree}\n    {flags}")
    for key, tensor in tensors.items():
        print(f"    {key} {list(tensor.shape)}")
