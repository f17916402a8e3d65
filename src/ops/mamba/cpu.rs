//! The `cpu` backend: threads process blocks of channels, each from the first token to the last, so that results do not
//! depend on how the work is split. The channels of a block are the lanes of vector code. Tokens are loaded in tiles
//! and transposed, so that the channels of a token are contiguous. In both directions a block keeps what the first walk made of
//! all tokens, and the second adds it.

use crate::cpu::{simd, threads};
use std::ops::Range;

use super::Config;
use crate::cpu::channels;
use crate::cpu::simd::{exp_signed, multiply_add, wide};
use crate::cpu::tiles::Output;
use crate::operator::mode::Direction;
use crate::tensor::{DType, HostTensor, Shape, TensorMap, Values};

/// Channels per block.
const LANES: usize = 16;

/// Approximate number of elements of b in a tile. Together with c and the channels of a block, they stay in a
/// second-level cache.
const TILE: usize = 4096;

/// Maximum number of blocks that share a tile of b and c.
const BLOCKS: usize = 4;

/// Runs the operator. [`crate::operator::Operator::cpu`] describes the tensors.
pub(super) fn run(config: &Config, tensors: &TensorMap) -> TensorMap {
    let tensor = |name: &str| tensors.get(name).unwrap_or_else(|| panic!("tensor {name} is missing"));
    let (s, states) = (config.shape, config.states);
    let mut a = tensor(if config.a_log { "a_log" } else { "a" }).to_f32();
    if config.a_log {
        a.iter_mut().for_each(|a| *a = channels::rate(*a));
    }
    let per_channel = |given: bool, name: &str| if given { tensor(name).to_f32() } else { vec![0.0; s.channels] };
    let constant = |given: bool, name: &str| if given { tensor(name).to_f32() } else { vec![] };
    let job = Job {
        config,
        x: tensor("x"),
        dt: tensor("dt"),
        b: tensor("b"),
        c: tensor("c"),
        z: config.z.then(|| tensor("z")),
        constant: [constant(config.constant_b, "b"), constant(config.constant_c, "c")],
        d: per_channel(config.d, "d"),
        dt_bias: per_channel(config.dt_bias, "dt_bias"),
        a,
        y: Output::rows(s.dtype, s.rows(), s.length),
    };
    let given = tensors.get("state").filter(|_| config.mode.carry).map(HostTensor::to_f32);
    let mut state = given.unwrap_or_else(|| threads::zeros(s.rows() * states));
    let blocks = job.blocks();
    // Blocks that one thread processes together share tiles of b and c. The results do not depend on their number.
    let each = (blocks / (4 * rayon::current_num_threads())).clamp(1, BLOCKS);
    let mut turned = threads::zeros(blocks.next_multiple_of(each) * LANES * states);
    for (block, h) in turned.chunks_exact_mut(LANES * states).take(blocks).enumerate() {
        job.turn(block, &state, h);
    }
    let work = (s.length * job.walks().len() * each * LANES * states * 32) as u64;
    threads::each_mut(&mut turned, each * LANES * states, work, |task, h| {
        job.walk(task * each..blocks.min((task + 1) * each), h);
    });
    for (block, h) in turned.chunks_exact(LANES * states).take(blocks).enumerate() {
        let Block { row, count, .. } = job.block(block);
        for (at, state) in state[row * states..][..count * states].iter_mut().enumerate() {
            *state = h[at % states * LANES + at / states];
        }
    }
    let mut outputs = TensorMap::new();
    outputs.insert("y", job.y.finish().reshape(s.shape()));
    if config.mode.carry {
        outputs.insert("state", HostTensor::f32([s.batch, s.channels, states], state));
    }
    outputs
}

/// Runs one token in place: updates the rows of the state where they are.
pub(super) fn update(config: &Config, tensors: &mut TensorMap) -> bool {
    let (s, states) = (config.shape, config.states);
    if s.length > 1 || !config.mode.carry || config.mode.direction != Direction::Forward {
        return false;
    }
    let mut state = tensors.lend("state", &Shape::from([s.batch, s.channels, states]), DType::F32);
    let mut y = vec![0.0; s.rows()];
    if let Values::F32(state) = state.values_mut() {
        step(config, tensors, state, &mut y);
    }
    tensors.insert("state", state);
    tensors.insert("y", HostTensor::f32(s.shape(), y).cast(s.dtype));
    true
}

/// One token: `h = e^(dt a) h + dt x b`, then `y = c h`, the skip and the gate.
fn step(config: &Config, tensors: &TensorMap, state: &mut [f32], y: &mut [f32]) {
    let read = |name: &str| tensors.get(name).map(HostTensor::to_f32).unwrap_or_default();
    let (s, states) = (config.shape, config.states);
    let [mut dt, x, b, c] = ["dt", "x", "b", "c"].map(read);
    let mut a = read(if config.a_log { "a_log" } else { "a" });
    if config.a_log {
        a.iter_mut().for_each(|a| *a = channels::rate(*a));
    }
    if config.dt_bias {
        let bias = read("dt_bias");
        dt.chunks_exact_mut(s.channels).for_each(|dt| simd::add(dt, &bias));
    }
    config.steps.apply(&mut dt);
    let each = s.channels / config.group_count();
    threads::each_pair_mut([state, y], [each * states, each], (32 * each * states) as u64, |group, state, y| {
        for (at, (h, y)) in state.chunks_exact_mut(states).zip(y).enumerate() {
            let row = group * each + at;
            let own = row % s.channels * states..(row % s.channels + 1) * states;
            let shared = group * states..(group + 1) * states;
            let b = &b[if config.constant_b { own.clone() } else { shared.clone() }];
            let c = &c[if config.constant_c { own.clone() } else { shared }];
            *y = one_row(h, &a[own], dt[row], dt[row] * x[row], b, c);
        }
    });
    if config.d {
        let d = read("d");
        y.chunks_exact_mut(s.channels).zip(x.chunks_exact(s.channels)).for_each(|(y, x)| simd::add_product(y, x, &d));
    }
    if config.z {
        let mut gates = read("z");
        channels::silu(&mut gates);
        simd::multiply(y, &gates);
    }
}

wide! {
    /// A row of the state after a token, and the output: the sum of `c h`, in a fixed order.
    fn one_row<FUSED>(h: &mut [f32], a: &[f32], dt: f32, u: f32, b: &[f32], c: &[f32]) -> f32 {
        let mut lanes = [0.0; LANES];
        let mut rest = 0.0;
        let ((a, last_a), (b, last_b), (c, last_c)) = (a.as_chunks(), b.as_chunks(), c.as_chunks::<LANES>());
        let (h, last) = h.as_chunks_mut::<LANES>();
        for (((h, a), b), c) in h.iter_mut().zip::<&[[f32; LANES]]>(a).zip::<&[[f32; LANES]]>(b).zip(c) {
            // The state is copied out, so that the compiler knows that nothing else is where it is.
            let mut now = *h;
            for i in 0..LANES {
                now[i] = multiply_add::<FUSED>(exp_signed::<FUSED>(dt * a[i]), now[i], u * b[i]);
                lanes[i] = multiply_add::<FUSED>(c[i], now[i], lanes[i]);
            }
            *h = now;
        }
        for (((h, a), b), c) in last.iter_mut().zip(last_a).zip(last_b).zip(last_c) {
            *h = multiply_add::<FUSED>(exp_signed::<FUSED>(dt * a), *h, u * b);
            rest += c * *h;
        }
        lanes.iter().sum::<f32>() + rest
    }
}

/// Describes the algorithm, for people.
pub(super) fn variant() -> String {
    format!("{LANES} channels at a time")
}

/// Some channels of one group.
struct Block {
    /// The first channel, counted over all batch entries.
    row: usize,
    /// Number of channels, at most [`LANES`].
    count: usize,
    /// The group, counted over all batch entries.
    group: usize,
}

/// One run: the configuration, its tensors and the output buffer.
struct Job<'a> {
    config: &'a Config,
    x: &'a HostTensor,
    dt: &'a HostTensor,
    b: &'a HostTensor,
    c: &'a HostTensor,
    z: Option<&'a HostTensor>,
    /// b and c where they are constant along the tokens, `[C, S]`; otherwise empty.
    constant: [Vec<f32>; 2],
    d: Vec<f32>,
    dt_bias: Vec<f32>,
    a: Vec<f32>,
    y: Output,
}

impl Job<'_> {
    /// The walks along the sequence: whether each goes from the last token to the first.
    fn walks(&self) -> &'static [bool] {
        match self.config.mode.direction {
            Direction::Forward => &[false],
            Direction::Backward => &[true],
            Direction::Both => &[false, true],
        }
    }

    fn group_channels(&self) -> usize {
        self.config.shape.channels / self.config.group_count()
    }

    fn blocks(&self) -> usize {
        self.config.shape.batch * self.config.group_count() * self.group_channels().div_ceil(LANES)
    }

    fn block(&self, block: usize) -> Block {
        let (channels, blocks) = (self.group_channels(), self.group_channels().div_ceil(LANES));
        let (group, first) = (block / blocks, block % blocks * LANES);
        Block { row: group * channels + first, count: LANES.min(channels - first), group }
    }

    /// Transposes the rows of S for the channels of a block to `[S, LANES]`. Lanes without a channel get zeros.
    fn turn(&self, block: usize, rows: &[f32], turned: &mut [f32]) {
        let Block { row, count, .. } = self.block(block);
        let states = self.config.states;
        for (at, to) in turned.iter_mut().enumerate() {
            let (s, lane) = (at / LANES, at % LANES);
            *to = if lane < count { rows[((row + lane) * states + s) % rows.len()] } else { 0.0 };
        }
    }

    /// Processes all tokens for some blocks. `h` holds their states, `[S, LANES]` each.
    fn walk(&self, blocks: Range<usize>, h: &mut [f32]) {
        let (length, states) = (self.config.shape.length, self.config.states);
        let tokens = (TILE / states).clamp(16, 512).min(length);
        let (tile, along, one) = (tokens * LANES, tokens * states, states * LANES);
        let fixed = self.constant.each_ref().map(|values| if values.is_empty() { 0 } else { one });
        let walks = self.walks();
        let kept = if walks.len() > 1 { length * LANES } else { 0 };
        let sizes = [blocks.len() * one, tile, tile, tile, along, along, fixed[0], fixed[1], tokens, tokens, tokens];
        let mut kept = threads::zeros(blocks.len() * kept);
        threads::scratch(sizes, |[a, dt, u, y, b, c, fixed_b, fixed_c, row, gate, space]| {
            for (block, a) in blocks.clone().zip(a.chunks_exact_mut(one)) {
                self.turn(block, &self.a, a);
            }
            dt.fill(0.0);
            u.fill(0.0);
            let tiles = length.div_ceil(tokens);
            for (walk_at, at) in (0..walks.len()).flat_map(|walk| (0..tiles).map(move |at| (walk, at))) {
                let backward = walks[walk_at];
                let first = if backward { tiles - 1 - at } else { at } * tokens;
                let count = tokens.min(length - first);
                if walk_at > 0 && at == 0 {
                    h.fill(0.0);
                }
                let mut spread_of = None;
                let states_of_blocks = a.chunks_exact(one).zip(h.chunks_exact_mut(one));
                for ((index, block), (a, h)) in blocks.clone().enumerate().zip(states_of_blocks) {
                    let Block { group, .. } = self.block(block);
                    if spread_of.replace(group) != Some(group) {
                        for (i, from, to) in [(0, self.b, &mut *b), (1, self.c, &mut *c)] {
                            for s in 0..if self.constant[i].is_empty() { states } else { 0 } {
                                let at = (group * states + s) * length + first;
                                spread(&mut to[s..], states, channels::span(from, at..at + count, space));
                            }
                        }
                    }
                    for (values, turned) in self.constant.iter().zip([&mut *fixed_b, &mut *fixed_c]) {
                        self.turn(block, values, turned);
                    }
                    self.steps(block, first, [dt, u], [&mut row[..count], space]);
                    let dt = &dt[..count * LANES];
                    if fixed == [0, 0] {
                        walk(h, a, [dt, u], [b, c], y, backward);
                    } else {
                        walk_constant(h, a, [dt, u], [b, c], [fixed_b, fixed_c], y, backward);
                    }
                    if walks.len() > 1 {
                        let kept = &mut kept[(index * length + first) * LANES..][..count * LANES];
                        if walk_at == 0 {
                            kept.copy_from_slice(&y[..count * LANES]);
                            continue;
                        }
                        simd::add(&mut y[..count * LANES], kept);
                    }
                    self.finish(block, first, y, [&mut row[..count], &mut gate[..count], space]);
                }
            }
        });
    }

    /// Computes the steps, and the steps times the inputs, of some tokens, `[tokens, LANES]`.
    fn steps(&self, block: usize, first: usize, [dt, u]: [&mut [f32]; 2], [row, space]: [&mut [f32]; 2]) {
        let Block { row: first_row, count, .. } = self.block(block);
        for lane in 0..count {
            let at = (first_row + lane) * self.config.shape.length + first;
            let range = at..at + row.len();
            let bias = self.dt_bias[(first_row + lane) % self.config.shape.channels];
            row.iter_mut().zip(channels::span(self.dt, range.clone(), space)).for_each(|(to, x)| *to = x + bias);
            self.config.steps.apply(row);
            spread(&mut dt[lane..], LANES, row);
            simd::multiply(row, channels::span(self.x, range, space));
            spread(&mut u[lane..], LANES, row);
        }
    }

    /// Adds the skip, applies the gate, and stores the outputs.
    fn finish(&self, block: usize, first: usize, y: &[f32], [row, gate, space]: [&mut [f32]; 3]) {
        let Block { row: first_row, count, .. } = self.block(block);
        for lane in 0..count {
            let at = (first_row + lane) * self.config.shape.length + first;
            let range = at..at + row.len();
            row.iter_mut().zip(y[lane..].iter().step_by(LANES)).for_each(|(to, y)| *to = *y);
            if self.config.d {
                // Every walk has its own skip.
                let d = self.walks().len() as f32 * self.d[(first_row + lane) % self.config.shape.channels];
                simd::add_scaled(row, channels::span(self.x, range.clone(), space), d);
            }
            if let Some(z) = self.z {
                gate.copy_from_slice(channels::span(z, range, space));
                channels::silu(gate);
                simd::multiply(row, gate);
            }
            // SAFETY: each channel is in one block, and its tokens are stored in order, once each.
            unsafe { self.y.span(first_row + lane, first, row) };
        }
    }
}

/// Writes the values to every `step`th element.
fn spread(to: &mut [f32], step: usize, values: &[f32]) {
    to.iter_mut().step_by(step).zip(values).for_each(|(to, x)| *to = *x);
}

wide! {
    /// The recurrence, token by token: `h = e^(dt a) h + u b` and `y = sum c h`. h and a are `[S, LANES]`; dt and u (`steps`) and
    /// y are `[tokens, LANES]`; b and c (`along`) are `[tokens, S]`. Backward it goes from the last token to the first.
    fn walk<FUSED>(
        h: &mut [f32],
        a: &[f32],
        steps: [&[f32]; 2],
        along: [&[f32]; 2],
        y: &mut [f32],
        backward: bool
    ) {
        let (states, count) = (a.len() / LANES, steps[0].len() / LANES);
        for at in 0..count {
            let t = if backward { count - 1 - at } else { at };
            let [dt, u] = steps.map(|x| &x[t * LANES..][..LANES]);
            let [b, c] = along.map(|x| &x[t * states..][..states]);
            let mut sum = [0.0; LANES];
            for (((h, a), b), c) in h.chunks_exact_mut(LANES).zip(a.chunks_exact(LANES)).zip(b).zip(c) {
                for i in 0..LANES {
                    h[i] = multiply_add::<FUSED>(exp_signed::<FUSED>(dt[i] * a[i]), h[i], u[i] * b);
                    sum[i] = multiply_add::<FUSED>(*c, h[i], sum[i]);
                }
            }
            y[t * LANES..][..LANES].copy_from_slice(&sum);
        }
    }
}

wide! {
    /// Does the same where b or c is constant along the tokens, `[S, LANES]`. Where one is not, it is `[tokens, S]` in `along`,
    /// and `fixed` is empty.
    fn walk_constant<FUSED>(
        h: &mut [f32],
        a: &[f32],
        steps: [&[f32]; 2],
        along: [&[f32]; 2],
        fixed: [&[f32]; 2],
        y: &mut [f32],
        backward: bool
    ) {
        let (states, count) = (a.len() / LANES, steps[0].len() / LANES);
        for at in 0..count {
            let t = if backward { count - 1 - at } else { at };
            let [dt, u] = steps.map(|x| &x[t * LANES..][..LANES]);
            let mut sum = [0.0; LANES];
            for (s, (h, a)) in h.chunks_exact_mut(LANES).zip(a.chunks_exact(LANES)).enumerate() {
                let [b, c] = [0, 1].map(|i| match fixed[i] {
                    [] => [along[i][t * states + s]; LANES],
                    fixed => std::array::from_fn(|lane| fixed[s * LANES + lane]),
                });
                for i in 0..LANES {
                    h[i] = multiply_add::<FUSED>(exp_signed::<FUSED>(dt[i] * a[i]), h[i], u[i] * b[i]);
                    sum[i] = multiply_add::<FUSED>(c[i], h[i], sum[i]);
                }
            }
            y[t * LANES..][..LANES].copy_from_slice(&sum);
        }
    }
}
