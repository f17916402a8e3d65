"""One call of an operator: arrays and settings in, arrays of the same library out."""

import numpy as np

from . import _arrays, _core


def flag(value):
    """A setting as the command writes it."""
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(flag(x) for x in value)
    return str(value)


def flags(settings):
    """(name, value) of all settings that are given."""
    return [(name.replace("_", "-"), flag(value)) for name, value in settings.items() if value is not None]


def states(initial_state):
    """The tensors of a state: a dict as a call returned it, or the array of an operator whose state is one."""
    if initial_state is None:
        return {}
    return dict(initial_state) if isinstance(initial_state, dict) else {"state": initial_state}


def call(op, tensors, settings, *, layout, seed, device, initial_state=None, keep=False, summary=False, in_place=False):
    """Runs `op`. Returns (outputs, state), both dicts; the state is empty unless `keep`. With `summary` it also has `decay`.
    With `in_place` the arrays of `initial_state` receive the state."""
    given = {name: value for name, value in tensors.items() if value is not None}
    kind = _arrays.Kind(next(iter(given.values())))
    before = states(initial_state)
    given.update(before)
    arrays = {name: _arrays.array(name, value) for name, value in given.items()}
    carry = keep or initial_state is not None
    if in_place:
        for name, value in before.items():
            _arrays.check_writable(name, value)
    done, _, _ = _core.run(op, arrays, flags(settings), layout=layout, carry=carry, seed=seed, device=device,
                           summary=summary, in_place=in_place)  # fmt: skip
    outputs = {name: kind.out(array, kept=name == "lse") for name, array in done.items() if name in OUTPUTS}
    state = {name: kind.out(array, kept=True) for name, array in done.items() if name not in OUTPUTS} if keep or summary else {}
    if in_place:
        for name, value in before.items():
            _arrays.write(value, done.get(name, arrays[name]))
            state[name] = value
    return outputs, state


# All other tensors that a run returns are states.
OUTPUTS = frozenset(["o", "y", "lse", "code", "index", "weight", "order", "offsets", "q_out", "k_out"])
