//! The dispatch that decodes one token, or a few. Pure.

use super::dispatch::Dispatches;
use super::kernels::{DECODE_GIVEN, KEYS_STORED, MAPPED_DECODE, NARROW};
use super::{Convolved, Params, Passes};
use crate::cores::lanes::reducing;
use crate::gpu::Caps;
use crate::gpu::program::Step;

/// Invocations per workgroup of the kernel that decodes a token, and its columns, the fewer where workgroups share the columns.
pub(crate) const DECODE_INVOCATIONS: usize = 256;
const DECODE_COLUMNS: usize = 64;
pub(crate) const DECODE_SPLIT_COLUMNS: usize = 16;

/// Rows of a state whose loads an invocation issues together, at most.
const DECODE_AT_ONCE: usize = 8;

impl Dispatches<'_> {
    /// The step of all heads.
    pub(super) fn decode(&self, caps: &Caps) -> Step {
        let c = self.c;
        let mut overrides = vec![("TRANSPOSED", c.state.transposed.into())];
        overrides.extend(&c.epilogue.overrides);
        let vectors = match &c.convolved {
            Some(convolved) => convolved.fragments(),
            None => [&NARROW[..], &[DECODE_GIVEN]].concat(),
        };
        let fragments = [&c.features.decode[..], &c.decay.decode, &c.epilogue.decode, &[KEYS_STORED], &vectors];
        // Columns depend on nothing that another workgroup writes, and features are cheap to compute for each.
        let shared = c.features.decode.contains(&MAPPED_DECODE) && c.normalize.is_none();
        let columns = if shared { DECODE_SPLIT_COLUMNS } else { DECODE_COLUMNS };
        let splits = if shared { c.qkv.dim_v.div_ceil(columns) } else { 1 };
        let lanes = DECODE_INVOCATIONS / columns;
        let rows = c.features.rows.div_ceil(lanes);
        let at_once = rows.min(DECODE_AT_ONCE);
        let few = self.walk == Passes::Few;
        let (kernel, own) = if few {
            (&c.kernels.tokens, vec![("ROWS_EACH", rows)])
        } else {
            (&c.kernels.decode, vec![("AT_ONCE", at_once), ("TURNS", rows.div_ceil(at_once))])
        };
        let mut consts = c.features.decode_consts.clone();
        consts.extend(own.into_iter().chain([("COLUMNS", columns)]).map(|(name, value)| (name, value as u32)));
        consts.extend(c.convolved.iter().flat_map(Convolved::consts));
        overrides.extend(c.convolved.iter().flat_map(Convolved::overrides));
        let spec = self.spec(&fragments, false, consts, overrides);
        let spec = if few { spec } else { reducing(spec, DECODE_INVOCATIONS, caps) };
        let mut cost = c.essential;
        // Query heads after the first read the state again, unless it stays in registers. Column splits read the decay
        // again.
        let again = if few { 0 } else { c.qkv.group() - 1 };
        cost.bytes_read += again as f64 * self.state_bytes();
        cost.bytes_read += (splits - 1) as f64 * self.key_tokens() * c.decay.cost.bytes_read;
        cost.bytes_read += match &c.convolved {
            Some(convolved) => convolved.bytes_again(c.qkv, splits),
            None => self.vectors_again(splits, lanes),
        };
        cost.bytes_read += c.decode_more;
        let params = Params { col_splits: splits as u32, ..self.params };
        self.step(kernel, (spec, None), params, self.kv * splits as u64, cost).own(c.own.first())
    }

    /// Tokens of all key heads.
    fn key_tokens(&self) -> f64 {
        self.kv as f64 * self.c.qkv.keys as f64
    }

    /// Bytes of the vectors of tokens that are read in addition to reading each once, if so many workgroups share the
    /// columns of a head and so many lanes each column.
    fn vectors_again(&self, splits: usize, lanes: usize) -> f64 {
        let (c, s) = (self.c, self.c.qkv);
        let vectors = (splits - 1) as f64 * self.key_tokens() * (1 + s.group()) as f64 * c.prepared.vector_bytes(s, 1);
        // Each value is read by all lanes instead of one, and every head of the state reads the q and k that it shares.
        let values = (lanes - 1) as f64 * self.key_tokens() * (s.dtype.size() * s.dim_v) as f64;
        let factors = (s.batch * s.keys * (s.heads + s.kv_heads)) as f64 * c.prepared.factor_bytes(s, 1);
        vectors + values + s.keys as f64 * s.shared_bytes() + factors
    }
}
