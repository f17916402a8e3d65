// What cosines and sines of four neighbouring pairs of columns need (rope_angles.wgsl).
alias Wholes = vec4<u32>;
alias Signed = vec4<i32>;

fn frequencies_of(piece: u32) -> Columns {
    return params.frequencies[piece];
}
