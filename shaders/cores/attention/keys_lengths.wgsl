// A batch entry has as many keys as a buffer says, which the caller may change between runs. Keys behind them are not read.
@group(0) @binding(LENGTHS_BINDING) var<storage, read> lengths: array<u32>; // B

fn key_count(batch: u32) -> u32 {
    count_load(1u);
    return min(lengths[batch], params.keys);
}
