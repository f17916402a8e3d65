//! Random choices from a seed, the same on every machine.

use subquad::catalog::case::Case;
use subquad::catalog::flags::FlagKind;
use subquad::catalog::spec::{AxisDefault, Causality, Op};
use subquad::tensor::{DType, Layout};

/// The seed of the run.
pub(crate) fn seed() -> u64 {
    std::env::var("SUBQUAD_SEED").ok().and_then(|word| word.parse().ok()).unwrap_or(17)
}

/// A stream of random choices.
pub(crate) struct Dice(u64);

impl Dice {
    /// The seed of the run, which is printed, and a number that tells its streams apart.
    pub(crate) fn new(stream: u64) -> Self {
        Self((seed() ^ stream.wrapping_mul(0xd6e8_feb8_6659_fd93)).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The stream of one trial among those of this name.
    pub(crate) fn of(name: &str, number: usize) -> Self {
        // FNV-1a, and steps of an odd constant that no name is near.
        let name = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        Self::new(name.wrapping_add((number as u64).wrapping_mul(0xd129_42f2_ae85_ca6b)))
    }

    fn next(&mut self) -> u64 {
        // Steele, Lea and Flood's SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// True once in `times` calls, on average.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One item of a list.
    pub(crate) fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// One word of a list.
    pub(crate) fn word<'a>(&mut self, of: &[&'a str]) -> &'a str {
        self.one::<&str>(of)
    }

    /// A length from 1 to `most`, short ones more often.
    pub(crate) fn length(&mut self, most: usize) -> usize {
        let most = 1 + self.below(most);
        1 + self.below(most)
    }

    /// A small random configuration of an operator; it may be one that the operator refuses.
    pub(crate) fn case(&mut self, op: &Op) -> Case {
        let heads = 1 + self.below(4);
        let length = |dice: &mut Self, letter: &str, default: usize| match letter {
            "B" => 1 + dice.below(2),
            "H" => heads,
            "N" => dice.length(200),
            // Codes of an address: digits of four choices.
            "U*P" => 4 * (1 + dice.below(4)),
            _ => dice.length(default.min(70)),
        };
        let mut axes = Vec::new();
        for (letter, default) in op.axes {
            match default {
                AxisDefault::Length(most) => axes.push((*letter, length(self, letter, *most))),
                AxisDefault::Same("H") if self.once_in(2) => {
                    axes.push((letter, heads / (1 + self.below(heads)).max(1)))
                }
                AxisDefault::Same(_) if self.once_in(4) => axes.push((letter, self.length(70))),
                AxisDefault::Same(_) => {}
            }
        }
        let mut case = Case::new("random", &axes);
        for flag in op.flags {
            match flag.kind {
                FlagKind::Choice(words) if self.once_in(2) => case.flags.set(flag.name, *self.one(words)),
                FlagKind::Switch if self.once_in(3) => {
                    case.flags.set(flag.name, if self.once_in(2) { "true" } else { "false" });
                }
                FlagKind::Number if self.once_in(8) => {
                    case.flags.set(flag.name, *self.one(&["0", "0.5", "1", "0.01", "2"]));
                }
                FlagKind::Count if self.once_in(6) => case.flags.set(flag.name, self.length(20).to_string()),
                _ => {}
            }
        }
        if op.causal == Causality::Both && self.once_in(4) {
            case.flags.set("causal", "false");
        }
        if op.recurrent && self.once_in(4) {
            case.flags.set("segment", self.length(64).to_string());
        }
        for spec in op.inputs.iter().filter(|spec| spec.optional) {
            case.with.extend(spec.names().filter(|_| self.once_in(4)));
        }
        case.layout = *self.one(&[Layout::Bhnd, Layout::Bhnd, Layout::Bnhd]);
        case.dtype = *self.one(&[DType::F32, DType::F32, DType::F16]);
        case.carry = !op.state.is_empty() && self.once_in(3);
        case.seed = self.next();
        case.complete(op);
        case
    }
}
