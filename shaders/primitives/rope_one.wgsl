// What cosines and sines of one pair of columns need (rope_angles.wgsl).
alias Wholes = u32;
alias Signed = i32;

fn frequencies_of(pair: u32) -> Columns {
    return params.frequencies[pair / 4u][pair % 4u];
}
