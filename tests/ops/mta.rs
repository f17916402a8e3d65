//! Multi-token attention: what is particular to it.

use crate::support::{assert_matches, prepare};
use subquad::ops::mta::OP;

#[test]
fn cpu_cases() {
    for case in (OP.cases)() {
        let (operator, inputs) = prepare(&OP, &case);
        let outputs = operator.cpu(&inputs).unwrap();
        eprintln!("{case}: {}", operator.cpu_variant());
        assert_matches(&format!("mta {case}"), &OP, operator.as_ref(), &inputs, &outputs);
    }
}
