// Strides of a sequence tensor, in elements. Same layout as `Strides` in src/operator/qkv.rs.
struct Strides {
    batch: u32,
    head: u32,
    token: u32,
    base: u32, // first element of the binding, which may hold only a part of the tensor
}

// First element of a head within the binding.
fn head_start(s: Strides, batch: u32, head: u32) -> u32 {
    return batch * s.batch + head * s.head - s.base;
}
