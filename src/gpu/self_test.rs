//! A short program that finds out whether a driver computes what WGSL defines. Some versions of software drivers do not and
//! report nothing: lavapipe before Mesa 25 ends loops after 65535 iterations.

use super::context::Context;
use super::grid::Grid;
use super::plan::Plan;
use super::program::{Cost, Operand, Program, Step};
use super::readback;
use super::schedule::Schedule;
use super::shader::{Fragment, Kernel, UniformData, Variant, fragment, params};
use super::workspace::Workspace;
use crate::error::Error;
use crate::tensor::{Access, DType, Slot, Values};

params! {
    /// Must match `struct Params` in `shaders/probes/self_test.wgsl`.
    struct Params {
        grid: Grid,
        rounds: u32,
        seed: u32,
        pairs: [u32; 2],
    }
}
const SOURCE: Fragment = fragment!("probes/self_test.wgsl");
const UNPACK: Fragment = fragment!("probes/unpack.wgsl");
const UNPACK_NONE: Fragment = fragment!("probes/unpack_none.wgsl");
const NAME: &str = "self_test";

static SELF_TEST: Kernel = Kernel::new(
    "probes_self_test",
    &[SOURCE],
    Params::UNIFORM,
    Some("the six indices are constants below the length of `found`; the loop counts up to a uniform"),
);

/// Iterations of the loop: more than 65535, the limit that drivers have been seen to set.
const ROUNDS: u32 = 70_000;
const SEED: u32 = 0x9e37_79b9;
/// Pairs of f16, the first of each in the low half, and their values, tested on devices with f16. None is subnormal: WGSL
/// allows those to become 0.
const PAIRS: [(u32, [f32; 2]); 2] = [(0x7bff_3c00, [1.0, 65504.0]), (0x3555_c100, [-2.5, 0.333_251_95])];
/// Length of `found`, what the kernel writes, in words.
const WORDS: usize = 6;

/// The kernel of this module, for shader validation.
pub fn kernels() -> Vec<(&'static Kernel, Variant)> {
    [true, false].map(|f16| (&SELF_TEST, variant(f16))).to_vec()
}

fn variant(f16: bool) -> Variant {
    let (elem, unpack) = if f16 { (DType::F16, UNPACK) } else { (DType::F32, UNPACK_NONE) };
    Variant { elem, fragments: vec![unpack], consts: vec![], overrides: vec![], own: None }
}

fn program(f16: bool) -> Program {
    let params = Params { grid: Grid::default(), rounds: ROUNDS, seed: SEED, pairs: PAIRS.map(|(pair, _)| pair) };
    let cost = Cost { bytes_written: 4.0 * WORDS as f64, ..Cost::default() };
    let step = Step::new(&SELF_TEST, variant(f16), &params, &[("found", Operand::Slot(0))], 1, cost);
    let slot = Slot::plain("found", Access::Write, DType::U32, [WORDS]);
    Program::new(NAME, SELF_TEST.name.into(), vec![slot], vec![], vec![step])
}

/// Runs the test on a device and waits for it. The result is what the device computes wrong, `None` if nothing.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn run(ctx: &Context) -> Result<Option<String>, Error> {
    let f16 = ctx.caps().f16;
    let plan = Plan::new(ctx, program(f16))?;
    let found = readback::empty(ctx, "found", [WORDS], DType::U32)?;
    let mut schedule = Schedule::new();
    schedule.push(plan.bind(&[("found", &found)], &Workspace::new())?);
    readback::run(ctx, &schedule, &mut |_| {})?;
    let found = readback::read_blocking(ctx, &found)?;
    let Values::U32(words) = found.values() else {
        return Err(Error::Device(format!("{NAME}: expected u32, found {}", found.dtype())));
    };
    tracing::debug!(?words, "self-test of {}", ctx.info().name);
    Ok(fault(words, f16, &driver(ctx.info())))
}

/// The hash after so many iterations.
fn hash(rounds: u32) -> u32 {
    (0..rounds).fold(SEED, |mut hash, _| {
        hash ^= hash << 13;
        hash ^= hash >> 17;
        hash ^ hash << 5
    })
}

/// What the words of `found` say that the driver does wrong, in a clause: `its driver (Mesa 22.3.6) ends ..`. Pairs count with
/// `f16` only.
fn fault(found: &[u32], f16: bool, driver: &str) -> Option<String> {
    let [count, end, lanes @ ..] = found else {
        return Some(format!("its driver ({driver}) returned no result of the self-test"));
    };
    let right = if driver.starts_with("Mesa") { "; Mesa 25 or newer is right" } else { "" };
    if *count != ROUNDS {
        let what = format!("ends loops after {count} iterations, so long sequences come out wrong");
        return Some(format!("its driver ({driver}) {what}{right}"));
    }
    if *end != hash(ROUNDS) {
        return Some(format!("its driver ({driver}) computes a loop of {ROUNDS} iterations wrong{right}"));
    }
    let wrong = |(pair, values): &(u32, [f32; 2]), lanes: &[u32]| {
        let got: Vec<_> = lanes.iter().map(|bits| f32::from_bits(*bits)).collect();
        // As bits: a NaN equals nothing, and -0 is not 0.
        (lanes != values.map(f32::to_bits)).then(|| {
            let what = format!("unpacks the f16 pair {pair:#010x} to {got:?} instead of {values:?}");
            format!("its driver ({driver}) {what}{right}")
        })
    };
    PAIRS.iter().filter(|_| f16).zip(lanes.chunks(2)).find_map(|(pair, lanes)| wrong(pair, lanes))
}

/// Name and version of the driver in short: `Mesa 22.3.6` of `4.5 (Core Profile) Mesa 22.3.6` and of `Mesa 22.3.6 (LLVM 15)`.
fn driver(info: &wgpu::AdapterInfo) -> String {
    short(&info.driver, &info.driver_info)
}

fn short(name: &str, version: &str) -> String {
    if let Some(at) = version.find("Mesa ") {
        return version[at..].split(" (").next().unwrap_or(version).to_owned();
    }
    let both = [name, version].join(" ").trim().to_owned();
    if both.is_empty() { "of unknown version".into() } else { both }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right() -> [u32; WORDS] {
        let [a, b] = PAIRS.map(|(_, values)| values.map(f32::to_bits));
        [ROUNDS, hash(ROUNDS), a[0], a[1], b[0], b[1]]
    }

    #[test]
    fn the_pairs_are_what_the_table_says() {
        for (pair, values) in PAIRS {
            let halves = [pair as u16, (pair >> 16) as u16].map(|bits| half::f16::from_bits(bits).to_f32());
            assert_eq!(halves, values, "{pair:#x}");
        }
    }

    #[test]
    fn a_driver_is_wrong_by_what_it_computed() {
        assert_eq!(fault(&right(), true, "Mesa 25.0.7"), None);
        // lavapipe of Mesa 22.3.6.
        let mut found = right();
        (found[0], found[1]) = (65535, hash(65535));
        let sentence = "its driver (Mesa 22.3.6) ends loops after 65535 iterations, so long sequences come out wrong; \
                        Mesa 25 or newer is right";
        assert_eq!(fault(&found, true, "Mesa 22.3.6").as_deref(), Some(sentence));
        // Another maker's driver is not told of Mesa.
        let other = fault(&found, false, "SwiftShader 5.0").unwrap();
        assert!(other.ends_with(" iterations, so long sequences come out wrong"), "{other}");

        let mut found = right();
        found[1] = hash(65535);
        let sentence = "its driver (WARP 1) computes a loop of 70000 iterations wrong";
        assert_eq!(fault(&found, true, "WARP 1").as_deref(), Some(sentence));

        for (lane, bits) in [(3, 0), (2, f32::NAN.to_bits()), (4, 0x8000_0000), (5, 0x3eaa_aaab)] {
            let mut found = right();
            found[lane] = bits;
            let sentence = fault(&found, true, "WARP 1").unwrap();
            assert!(sentence.starts_with("its driver (WARP 1) unpacks the f16 pair 0x"), "{sentence}");
            assert_eq!(fault(&found, false, "WARP 1"), None);
        }
        let mut found = right();
        found[3] = 0;
        let sentence = "its driver (WARP 1) unpacks the f16 pair 0x7bff3c00 to [1.0, 0.0] instead of [1.0, 65504.0]";
        assert_eq!(fault(&found, true, "WARP 1").as_deref(), Some(sentence));
        // A kernel that did not run at all leaves zeros.
        assert!(fault(&[0; WORDS], true, "WARP 1").unwrap().contains(" after 0 iterations"));
        assert!(fault(&[], true, "WARP 1").unwrap().contains("no result"));
    }

    #[test]
    fn a_driver_is_named_in_short() {
        for (name, version, expected) in [
            ("llvmpipe", "Mesa 22.3.6 (LLVM 15.0.6)", "Mesa 22.3.6"),
            ("", "4.5 (Core Profile) Mesa 25.0.7-2~bpo12+1", "Mesa 25.0.7-2~bpo12+1"),
            ("SwiftShader driver", "5.0.0", "SwiftShader driver 5.0.0"),
            ("", "", "of unknown version"),
        ] {
            assert_eq!(short(name, version), expected);
        }
    }
}
