"""Models of transformers and functions of fla beside their own code in torch."""

import contextlib
import importlib
import importlib.machinery
import sys
import types
import unittest
import warnings
from unittest import mock

try:
    import torch
    import transformers
    from torch.nn import functional as F

    MISSING = None
except ImportError as error:
    MISSING = f"{error.name} is not installed"
    print(f"test_compat: skipped, {MISSING}", file=sys.stderr)

if MISSING is None:
    import subquad.compat
    import subquad.compat.transformers as shim
    from subquad.compat import causal_conv1d, fla, mamba_ssm

WIDE = {"vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128}
SSD = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_n_groups": 2, "mamba_chunk_size": 32}
LIMITED = {"num_heads": 4, "head_dim": 32, "state_size": 16, "n_groups": 2, "chunk_size": 32, "time_step_limit": (0.01, 0.3)}
MODELS = {
    "Mamba": WIDE,
    "Mamba2": {**WIDE, **LIMITED},
    "Bamba": {**WIDE, **HEADS, **SSD, "attn_layer_indices": [1]},
    "GraniteMoeHybrid": {**WIDE, **HEADS, **SSD, "shared_intermediate_size": 128, "layer_types": ["mamba", "attention"],
                         "num_local_experts": 0, "num_experts_per_tok": 0},
    "Qwen3Next": {**WIDE, **HEADS, "head_dim": 16, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
                  "num_experts": 4, "num_experts_per_tok": 2, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
                  "linear_key_head_dim": 16, "linear_value_head_dim": 16, "layer_types": ["linear_attention", "full_attention"]},
    "FalconMamba": WIDE,
    "Jamba": {**WIDE, **HEADS, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "num_experts_per_tok": 1},
    "Zamba2": {**WIDE, **HEADS, "num_hidden_layers": 3, "layers_block_type": ["mamba", "mamba", "hybrid"], "n_mamba_heads": 4,
               "mamba_headdim": 32, "mamba_d_state": 16, "mamba_ngroups": 2, "chunk_size": 32, "num_mem_blocks": 1},
    "FalconH1": {**WIDE, **HEADS, **SSD, "mamba_d_ssm": 128},
    "NemotronH": {"vocab_size": 256, "hidden_size": 64, **HEADS, "head_dim": 16,
                  "layers_block_type": ["mamba", "attention", "mamba"],
                  "mamba_num_heads": 4, "mamba_head_dim": 32, "ssm_state_size": 16, "n_groups": 2, "chunk_size": 32},
}  # fmt: skip
CONVOLUTION = ("causal_conv1d_fn", "causal_conv1d_update")


def setUpModule():
    warnings.filterwarnings("ignore")
    if MISSING is None:
        transformers.logging.set_verbosity_error()
        torch.set_num_threads(2)
        # Functions under test run on the CPU; `enable` says so again.
        subquad.compat.device("cpu")


@contextlib.contextmanager
def without(*packages):
    """Packages cannot be imported inside: then transformers takes its code in torch, and so does a machine without them."""
    there = {name: sys.modules.get(name) for name in packages}
    try:
        sys.modules.update(dict.fromkeys(packages))
        yield
    finally:
        for name, module in there.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def model_of(name):
    with without("fla", "mamba_ssm", "causal_conv1d"):
        config = getattr(transformers, f"{name}Config")
        importlib.import_module(config.__module__.replace("configuration_", "modeling_"))
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config(**MODELS[name])).eval()
    for which, weight in model.named_parameters():
        if weight.dim() > 1 and "A_log" not in which:
            torch.nn.init.normal_(weight, std=0.1)
    return model


def error(found, want):
    """Relative RMS."""
    return ((found.double() - want.double()).square().mean() / want.double().square().mean()).sqrt().item()


def normal(*shape):
    return torch.randn(*shape)


@unittest.skipIf(MISSING is not None, MISSING)
class Models(unittest.TestCase):
    def tearDown(self):
        shim.disable()

    def check(self, name, *functions):
        model, tokens = model_of(name), torch.randint(0, 256, (2, 50))
        settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        settings["attention_mask"] = torch.ones_like(tokens)
        with torch.no_grad():
            want, text = model(tokens).logits, model.generate(tokens, **settings)
            shim.enable(force=True, device="cpu")
            subquad.compat.calls(reset=True)
            found, ours = model(tokens).logits, model.generate(tokens, **settings)
            counts = subquad.compat.calls()
            shim.disable()
            again = model(tokens).logits
        self.assertLess(error(found, want), 1e-5)
        self.assertEqual(ours.tolist(), text.tolist())
        self.assertEqual(sorted(counts), sorted(functions))
        self.assertTrue(torch.equal(again, want), "disable() does not restore")

    def test_models_of_the_selective_scan(self):
        for name in ("Mamba", "FalconMamba", "Jamba"):
            with self.subTest(name):
                self.check(name, *CONVOLUTION, "selective_scan_fn", "selective_state_update")

    def test_models_of_mamba_2(self):
        for name in ("Mamba2", "Bamba", "GraniteMoeHybrid", "Zamba2", "FalconH1", "NemotronH"):
            with self.subTest(name):
                self.check(name, *CONVOLUTION, "mamba_chunk_scan_combined", "selective_state_update")

    def test_a_model_of_the_gated_delta_rule(self):
        self.check("Qwen3Next", *CONVOLUTION, "chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule")

    def test_packed_sequences_are_kept_apart(self):
        model = model_of("Bamba")
        parts = [torch.randint(0, 256, (1, n)) for n in (13, 20, 7)]
        seq_idx = torch.cat([torch.full((1, x.shape[1]), i) for i, x in enumerate(parts)], 1).int()
        positions = torch.cat([torch.arange(x.shape[1]) for x in parts])[None]
        mask = (seq_idx[0][:, None] == seq_idx[0][None]).tril()[None, None]
        with torch.no_grad():
            want = torch.cat([model(x, use_cache=False).logits for x in parts], 1)
            with self.assertRaisesRegex(ValueError, "packed sequences"):
                model(torch.cat(parts, 1), seq_idx=seq_idx, use_cache=False)
            shim.enable(force=True, device="cpu")
            settings = {"seq_idx": seq_idx, "position_ids": positions, "use_cache": False}
            found = packed(model, torch.cat(parts, 1), mask, settings)
        self.assertLess(error(found, want), 1e-5)

    def test_training_goes_to_torch(self):
        model, tokens = model_of("Mamba2").train(), torch.randint(0, 256, (1, 20))
        want = torch.autograd.grad(model(tokens, labels=tokens).loss, model.get_input_embeddings().weight)[0]
        shim.enable(force=True, device="cpu")
        subquad.compat.calls(reset=True)
        found = torch.autograd.grad(model(tokens, labels=tokens).loss, model.get_input_embeddings().weight)[0]
        self.assertTrue(torch.equal(found, want))
        self.assertEqual(subquad.compat.calls(), {})
        # Without gradients the fused form runs, which the model asks for in training only.
        with torch.no_grad():
            fused = model(tokens, use_cache=False).logits
            self.assertIn("mamba_split_conv1d_scan_combined", subquad.compat.calls())
            shim.disable()
            self.assertLess(error(fused, model(tokens, use_cache=False).logits), 1e-5)

    def test_a_model_may_be_imported_afterwards(self):
        name = "transformers.models.zamba.modeling_zamba"
        sys.modules.pop(name, None)
        shim.enable(force=True, device="cpu")
        module = importlib.import_module(name)
        x, weight = normal(1, 8, 20), normal(8, 4)
        subquad.compat.calls(reset=True)
        found = module.causal_conv1d_fn(x, weight, activation="silu")
        self.assertEqual(subquad.compat.calls(), {"causal_conv1d_fn": 1})
        shim.disable()
        self.assertLess(error(found, module.causal_conv1d_fn(x, weight, activation="silu")), 1e-6)
        self.assertEqual(subquad.compat.calls(), {"causal_conv1d_fn": 1})

    def test_an_installed_package_is_left_alone(self):
        own = types.ModuleType("causal_conv1d")
        own.__spec__ = importlib.machinery.ModuleSpec("causal_conv1d", None)
        with mock.patch.dict(sys.modules, {"causal_conv1d": own}):
            self.assertNotIn("causal_conv1d", shim.enable(device="cpu"))
            self.assertIs(sys.modules["causal_conv1d"], own)
            self.assertIn("causal_conv1d", shim.enable(force=True, device="cpu"))
            self.assertIsNot(sys.modules["causal_conv1d"], own)
            shim.disable()
            self.assertIs(sys.modules["causal_conv1d"], own)

    def test_modules_can_be_imported_by_their_names(self):
        shim.enable(force=True, device="cpu")
        from causal_conv1d import causal_conv1d_fn
        from fla.modules import FusedRMSNormGated
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule
        from mamba_ssm.ops.triton.layernorm_gated import RMSNorm, rmsnorm_fn
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

        self.assertIs(causal_conv1d_fn, causal_conv1d.causal_conv1d_fn)
        self.assertIs(chunk_gated_delta_rule, fla.chunk_gated_delta_rule)
        self.assertIs(mamba_chunk_scan_combined, mamba_ssm.mamba_chunk_scan_combined)
        self.assertIsNotNone(importlib.util.find_spec("mamba_ssm"))
        x, z, norm = normal(2, 5, 8), normal(2, 5, 8), RMSNorm(8, group_size=4, norm_before_gate=False)
        y = (x * F.silu(z)).unflatten(-1, (2, 4))
        want = (y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(-2)
        self.assertLess(error(norm(x, z), want), 1e-6)
        self.assertLess(error(rmsnorm_fn(x, norm.weight, z=z), F.rms_norm(x, (8,), eps=1e-6) * F.silu(z)), 1e-6)
        self.assertLess(error(FusedRMSNormGated(8)(x, z), F.rms_norm(x, (8,), eps=1e-5) * F.silu(z)), 1e-6)
        shim.disable()
        self.assertFalse(shim._stands_in(sys.modules.get("mamba_ssm")))


def packed(model, tokens, mask, settings):
    """A model on packed tokens, whose attention sees `mask` [1, 1, N, N]."""
    from transformers.models.bamba import modeling_bamba

    with mock.patch.object(modeling_bamba, "create_causal_mask", lambda **_: mask):
        return model(tokens, **settings).logits


@unittest.skipIf(MISSING is not None, MISSING)
class Functions(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(1)
        subquad.compat.device("cpu")

    def test_updates_write_in_place(self):
        x, weight, bias = normal(2, 6, 9), normal(6, 4), normal(6)
        want = causal_conv1d.causal_conv1d_fn(x, weight, bias, activation="silu")
        state, kept = torch.zeros(2, 6, 4), torch.zeros(3, 6, 4)
        for n in range(9):
            y = causal_conv1d.causal_conv1d_update(x[..., n], state, weight, bias, "silu")
            self.assertLess(error(y, want[..., n]), 1e-6)
        self.assertTrue(torch.equal(state, x[..., -4:]))
        y = causal_conv1d.causal_conv1d_update(x, kept, weight, bias, "silu", conv_state_indices=torch.tensor([2, 0]))
        self.assertLess(error(y, want), 1e-6)
        self.assertTrue(torch.equal(kept[[2, 0]], state) and not kept[1].any())

    def test_a_state_of_heads_is_a_scan_of_channels(self):
        h, p, s = 4, 3, 5
        x, dt, b, c = normal(2, h, p), normal(2, h), normal(2, 2, s), normal(2, 2, s)
        a, d, bias, z, state = -torch.rand(h), normal(h), normal(h), normal(2, h, p), normal(2, h, p, s)
        wide = lambda t, *more: t[(..., *[None] * len(more))].expand(*t.shape, *more)  # noqa: E731
        one, other = state.clone(), state.clone()
        y = mamba_ssm.selective_state_update(one, x, wide(dt, p), wide(a, p, s), b, c, wide(d, p), z, wide(bias, p), True)
        full = [t.contiguous() for t in (wide(dt, p), wide(a, p, s), wide(d, p), wide(bias, p))]
        again = mamba_ssm.selective_state_update(other, x, full[0], full[1], b, c, full[2], z, full[3], True)
        self.assertLess(error(y, again), 1e-6)
        self.assertLess(error(one, other), 1e-6)
        step = F.softplus(dt + bias)[..., None, None]
        rows = lambda t: t.repeat_interleave(h // 2, 1)[:, :, None]  # noqa: E731
        want = state * (step * a[:, None, None]).exp() + step * rows(b) * x[..., None]
        self.assertLess(error(one, want), 1e-6)
        self.assertLess(error(y, ((want * rows(c)).sum(-1) + d[:, None] * x) * F.silu(z)), 1e-6)

    def test_packed_scans_and_their_states(self):
        x, dt, b, c = normal(2, 12, 4, 3), normal(2, 12, 4), normal(2, 12, 2, 5), normal(2, 12, 2, 5)
        a, initial = -torch.rand(4), normal(2, 4, 3, 5)
        seq = torch.tensor([[0] * 5 + [1] * 7, [0] * 12], dtype=torch.int32)
        given = {"dt_softplus": True, "dt_limit": (0.1, 0.9)}
        given["return_final_states"] = True
        y, last = mamba_ssm.mamba_chunk_scan_combined(x, dt, a, b, c, 4, initial_states=initial, seq_idx=seq, **given)

        def run(row, part, state):
            cut = [t[row : row + 1, part] for t in (x, dt, b, c)]
            return mamba_ssm.mamba_chunk_scan_combined(*cut[:2], a, *cut[2:], 4, initial_states=state, **given)

        first, second = run(0, slice(0, 5), initial[:1]), run(0, slice(5, 12), None)
        third = run(1, slice(0, 12), initial[1:])
        self.assertLess(error(y[:1], torch.cat([first[0], second[0]], 1)), 1e-6)
        self.assertLess(error(y[1:], third[0]), 1e-6)
        self.assertLess(error(last, torch.cat([second[1], third[1]])), 1e-6)
        u, weight = normal(2, 6, 12), normal(6, 4)
        apart = torch.cat([causal_conv1d.causal_conv1d_fn(u[:1, :, s], weight) for s in (slice(0, 5), slice(5, 12))], -1)
        self.assertLess(error(causal_conv1d.causal_conv1d_fn(u, weight, seq_idx=seq)[:1], apart), 1e-6)

    def test_what_needs_a_gradient_is_refused(self):
        with self.assertRaisesRegex(ValueError, "chunk_gla: a tensor requires a gradient"):
            fla.chunk_gla(normal(1, 3, 1, 2).requires_grad_(), *(normal(1, 3, 1, 2) for _ in range(3)))

    def test_what_cannot_be_expressed_says_why(self):
        for name in ("chunk_rwkv7", "parallel_nsa", "chunk_mesa_net", "chunk_log_linear_attn"):
            with self.assertRaisesRegex(NotImplementedError, f"^{name} .*not supported: "):
                getattr(fla, name)()
        with self.assertRaises(AttributeError):
            fla.chunk_nothing  # noqa: B018


def naive(path):
    """A module of fla with a naive form, or None where fla is not installed."""
    try:
        return importlib.import_module(f"fla.ops.{path}")
    except ImportError as missing:
        raise unittest.SkipTest(f"{missing.name} is not installed") from missing


@unittest.skipIf(MISSING is not None, MISSING)
class Fla(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(2)
        subquad.compat.device("cpu")
        b, t, h, k, v = 2, 37, 3, 16, 24
        self.q, self.k, self.v = normal(b, t, h, k), F.normalize(normal(b, t, h, k), dim=-1), normal(b, t, h, v)
        self.g, self.gk = F.logsigmoid(normal(b, t, h)), F.logsigmoid(normal(b, t, h, k)) / 4
        self.beta, self.h0 = torch.rand(b, t, h), normal(b, h, k, v)
        self.state = {"initial_state": self.h0, "output_final_state": True}

    def same(self, found, want):
        flat = lambda x: [y for one in x for y in (flat(one) if isinstance(one, tuple) else [one])]  # noqa: E731
        for one, other in zip(flat(found), flat(want), strict=True):
            self.assertLess(error(one, other), 1e-5)

    def test_decays(self):
        q, k, v, g, gk, state = self.q, self.k, self.v, self.g, self.gk, self.state
        self.same(fla.chunk_gla(q, k, v, gk, **state), naive("gla.naive").naive_recurrent_gla(q, k, v, gk, **state))
        want = naive("simple_gla.naive").naive_recurrent_simple_gla(q, k, v, g, **state)
        self.same(fla.chunk_simple_gla(q, k, v, g, **state), want)
        turned = {"initial_state": self.h0.mT.contiguous(), "output_final_state": True, "state_v_first": True}
        self.same(fla.fused_recurrent_simple_gla(q, k, v, g, **turned), (want[0], want[1].mT))
        back = fla.fused_recurrent_simple_gla(*(x.flip(1) for x in (q, k, v, g)), reverse=True, **state)
        self.same((back[0].flip(1), back[1]), want)
        first = lambda *given: [x.transpose(1, 2) for x in given]  # noqa: E731
        kept = naive("retention.naive").naive_retention(*first(q, k, v)).transpose(1, 2)
        self.same((fla.chunk_retention(q, k, v)[0],), (kept,))
        gamma = -(8 / 3 * (1 - 1 / 4)) * torch.arange(3.0)
        want = naive("simple_gla.naive").naive_recurrent_simple_gla(q, k, v, gamma.expand(2, 37, 3), **state)
        self.same(fla.chunk_lightning_attn(q, k, v, 1, 4, **state), want)
        u = normal(3, 16)
        o, last = naive("rwkv6.recurrent_naive").naive_recurrent_rwkv6(*first(q, k, v, gk), u, **state)
        self.same(fla.chunk_rwkv6(q, k, v, gk, u, **state), (o.transpose(1, 2), last))
        x, gx, h0 = normal(2, 9, 5), F.logsigmoid(normal(2, 9, 5)), normal(2, 5)
        self.same(fla.chunk_hgrn(x, gx, h0, True), naive("hgrn.naive").naive_recurrent_hgrn(x, gx, h0, True))

    def test_sums(self):
        q, k, v, state = self.q, self.k, self.v, self.state
        want = naive("linear_attn.naive").naive_recurrent_linear_attn
        self.same(fla.chunk_linear_attn(q, k, v, normalize=False, **state), want(q, k, v, **state))
        both = {"initial_state": (self.h0, torch.rand(2, 1, 3, 16)), "output_final_state": True, "normalize": True}
        self.same(fla.chunk_linear_attn(q.exp(), k.exp(), v, **both), want(q.exp(), k.exp(), v, **both))

    def test_corrections(self):
        q, k, v, g, beta, state = self.q, self.k, self.v, self.g, self.beta, self.state
        o, last = naive("delta_rule.naive").delta_rule_recurrence(*(x.transpose(1, 2) for x in (q, k, v, beta)), self.h0)
        self.same(fla.chunk_delta_rule(q, k, v, beta, **state), (o.transpose(1, 2), last))
        want = naive("gated_delta_rule.naive").naive_recurrent_gated_delta_rule
        self.same(fla.chunk_gated_delta_rule(q, k, v, g, beta, **state), want(q, k, v, beta, g, **state))
        logits = normal(2, 37, 3)
        found = fla.fused_recurrent_gated_delta_rule(q * 3, k * 2, v, g, beta=logits, use_qk_l2norm_in_kernel=True,
                                                     use_beta_sigmoid_in_kernel=True, allow_neg_eigval=True, **state)  # fmt: skip
        self.same(found, want(F.normalize(q, dim=-1), k, v, 2 * logits.sigmoid(), g, **state))
        a, a_log, bias = normal(2, 37, 3), normal(3), normal(3)
        found = fla.chunk_gated_delta_rule(q, k, v, a, beta, use_gate_in_kernel=True, A_log=a_log, dt_bias=bias, **state)
        self.same(found, want(q, k, v, beta, -a_log.exp() * F.softplus(a + bias), **state))
        k2, v2, b2 = F.normalize(normal(2, 74, 3, 16), dim=-1), normal(2, 74, 3, 24), torch.rand(2, 74, 3)
        product = naive("gated_delta_product.naive").naive_recurrent_gated_delta_product
        found = fla.chunk_gated_delta_product(q, k2, v2, g, b2, 2, **state)
        self.same(found, product(q, k2, v2, g, b2, 0.25, num_householder=2, **state))

    def test_channels(self):
        q, k, gk = self.q, self.k, self.gk
        v, g, beta, h0 = normal(2, 37, 6, 24), F.logsigmoid(normal(2, 37, 6, 16)), torch.rand(2, 37, 6), normal(2, 6, 16, 24)
        state = {"initial_state": h0, "output_final_state": True}
        want = naive("kda.naive").naive_recurrent_kda
        self.same(fla.chunk_kda(q, k, v, g, beta, **state), want(q, k, v, g, beta, **state))
        a_log, bias = normal(6), normal(96)
        gate = -a_log.exp()[:, None] * F.softplus(g + bias.view(6, 16))
        found = fla.fused_recurrent_kda(q, k, v, g, beta, a_log, bias, use_gate_in_kernel=True, **state)
        self.same(found, want(q, k, v, gate, beta, **state))
        s, gs, both = normal(2, 37, 3, 8), F.logsigmoid(normal(2, 37, 3, 8)), (normal(2, 3, 16, 8), normal(2, 3, 8, 24))
        state = {"initial_state": both, "output_final_state": True}
        slots = naive("gsa.naive").naive_recurrent_gsa
        self.same(fla.chunk_gsa(q, k, self.v, s, gs, **state), slots(q, k, self.v, s, gs, **state))
        # A decay of the values with one factor per head is that of the keys.
        gv = gk[..., :1]
        found = fla.fused_recurrent_gla(q, k, self.v, gv=gv.expand(-1, -1, -1, 24), **self.state)
        self.same(found, fla.fused_recurrent_gla(q, k, self.v, gk=gv.expand(-1, -1, -1, 16), **self.state))

    def test_packed_sequences(self):
        q, k, v, g, beta = (x[:1] for x in (self.q, self.k, self.v, self.g, self.beta))
        cu, h0 = torch.tensor([0, 5, 20, 37]), normal(3, 3, 16, 24)
        o, last = fla.chunk_gated_delta_rule(q, k, v, g, beta, initial_state=h0, output_final_state=True, cu_seqlens=cu)
        for i, (start, end) in enumerate([(0, 5), (5, 20), (20, 37)]):
            part = [x[:, start:end] for x in (q, k, v, g, beta)]
            want = fla.chunk_gated_delta_rule(*part, initial_state=h0[i : i + 1], output_final_state=True)
            self.same((o[:, start:end], last[i : i + 1]), want)


if __name__ == "__main__":
    unittest.main()
