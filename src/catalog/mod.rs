//! Descriptions of the operators for the command line, the tests and the benches: table rows, flags, cases and random
//! inputs.

pub mod absent_axes;
pub mod attention;
pub mod case;
pub mod channels;
pub mod domain;
pub mod flags;
pub mod packed;
pub mod qkv;
pub mod random;
pub mod recurrent;
pub mod request;
pub mod spec;
pub mod summaries;
pub mod telling;
