// Where rows of a sequence tensor lie, in elements. Twin of `Strides` in src/ops/qkv.rs.
struct Strides {
    batch: u32,
    head: u32,
    token: u32,
    base: u32, // first element of the binding, which may hold a part of the tensor only
}

// First element of a head within the binding.
fn head_start(s: Strides, batch: u32, head: u32) -> u32 {
    return batch * s.batch + head * s.head - s.base;
}
