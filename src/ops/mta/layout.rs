//! From a configuration to tiles, uniforms, workspace and dispatches. Pure: no wgpu type.

use super::{Config, NAME};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Program};
use crate::ops::attend;

/// Essential work: what of each input is seen read once, each output written once, and only pairs of a query and a key
/// it sees.
pub(super) fn essential(c: &Config) -> Cost {
    let s = &c.qkv;
    let base = attend::essential(s, c.mask());
    let pairs = (s.batch * s.heads) as f64 * c.mask().pairs(s);
    let kernels = [c.kq_pre, c.kq_post].into_iter().flatten().map(|taps| taps.queries * taps.keys).sum::<usize>();
    let heads = if c.head_pre { s.heads } else { 0 } + c.head_post.unwrap_or(0);
    let gates = c.gate.map_or(0, |gate| if gate.gates == super::Gates::Scalar { 1 } else { s.dim_v });
    let weights = c.weights_slot().and_then(|slot| slot.checked_bytes()).unwrap_or(0) as f64;
    let tail = c.tail_slot().and_then(|slot| slot.checked_bytes()).unwrap_or(0) as f64;
    let [_, _, _, o] = s.elements();
    let finished =
        o * if c.norm { 3.0 } else { 0.0 } + o * if c.gate.is_some() { 2.0 * gates as f64 + 1.0 } else { 0.0 };
    Cost {
        flops: base.flops + pairs * 2.0 * (kernels + heads) as f64 + finished,
        exps: base.exps,
        bytes_read: base.bytes_read + weights + tail,
        bytes_written: base.bytes_written + tail,
    }
}

/// What a GPU has to do.
pub(super) fn program(c: &Config, _caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    Err(Error::setting(NAME, "backend", "cpu", "gpu"))
}
