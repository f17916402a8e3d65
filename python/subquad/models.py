"""Whole models from folders as they are published: Mamba, Mamba-2, Bamba, Granite 4 and Qwen3-Next without experts, and models of
subquad's own form (docs/models.md)."""

import operator
import os

from . import _arrays, _core


def load_model(folder, *, device="auto", dtype="float32"):
    """Opens `config.json` and `*.safetensors` of a folder; nothing is loaded before it is checked.

    dtype is that of activations, and of weights of products if the files do not have them in float16.
    """
    return Model(folder, device=device, dtype=dtype)


class Model:
    """A model on a device. One call at a time: the calls of several threads wait for each other."""

    def __init__(self, folder, *, device="auto", dtype="float32"):
        self._model = _core.Model(os.fspath(folder), device, dtype)

    @property
    def family(self):
        """`model_type`."""
        return self._model.family

    @property
    def vocabulary(self):
        """Number of tokens."""
        return self._model.vocabulary

    @property
    def parameters(self):
        """Number of weights."""
        return self._model.parameters

    @property
    def labels(self):
        """Names of the classes of the head `tags` or `class`, if it has them."""
        return self._model.labels

    @property
    def device(self):
        """The adapter that it runs on, or cpu."""
        return self._model.device

    def __repr__(self):
        return f"<subquad.Model {self.family}: {self.parameters} parameters on {self.device}>"

    def tokens(self, text):
        """The tokens of a text, of bytes, or of an array of whole numbers."""
        if isinstance(text, str):
            text = text.encode()
        if isinstance(text, (bytes, bytearray)):
            return self._model.encode(list(text))
        if not isinstance(text, (list, tuple)):
            text = _arrays.array("tokens", text)
            if text.dtype.kind not in "iu":
                raise ValueError(f"`tokens`: expected whole numbers, found {text.dtype}")
            if text.ndim != 1:
                raise ValueError(f"`tokens`: expected [N], found {list(text.shape)}")
        tokens = [operator.index(x) for x in text]
        if any(not 0 <= x < 1 << 32 for x in tokens):
            raise ValueError("`tokens`: expected numbers of 0 or more")
        return tokens

    def run(self, text):
        """Logits [N, V] in float32, or [1, classes] for the head `class`."""
        return self._model.run(self.tokens(text))

    def score(self, text, *, chunk=512):
        """A dict of bits, tokens predicted, bits_per_token, and bits_per_byte if `text` is text or bytes."""
        tokens = self.tokens(text)
        bits, predicted = self._model.score(tokens, chunk)
        found = {"bits": bits, "tokens": predicted, "bits_per_token": bits / predicted if predicted else None}
        if isinstance(text, (str, bytes, bytearray)) and predicted:
            found["bits_per_byte"] = bits / len(text.encode() if isinstance(text, str) else text)
        return found

    def generate(self, prompt, tokens, *, temperature=0.0, top_k=None, top_p=None, seed=0, chunk=512):
        """The text, or the list of tokens if the prompt was one, that follows the prompt: at most so many tokens."""
        start = self.tokens(prompt)
        found = list(self.stream(start, tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, chunk=chunk))
        if not isinstance(prompt, (str, bytes, bytearray)):
            return found
        text = self._model.decode(start, found)
        return text.decode(errors="replace") if isinstance(prompt, str) else text

    def stream(self, prompt, tokens, *, temperature=0.0, top_k=None, top_p=None, seed=0, chunk=512):
        """The tokens that follow the prompt, one after another as they are found."""
        start = self.tokens(prompt)
        if not start:
            raise ValueError("`prompt`: expected one token or more, found none")
        sampler = _core.Draws(temperature, top_k, top_p, seed)
        self._model.begin(start, chunk)
        last = start[-1]
        for _ in range(tokens):
            last = self._model.next(last, sampler)
            if last is None:
                return
            yield last

    def sizes(self, length=1024):
        """A dict: weight_bytes, state_bytes of a sequence of this length, dispatches of a token on a GPU."""
        return dict(zip(("weight_bytes", "state_bytes", "dispatches"), self._model.sizes(length)))
