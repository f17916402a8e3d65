// A bit for each pair of a query and a key, 0 where the pair is hidden. Every row starts with a word.
@group(0) @binding(MASK_BINDING) var<storage, read> mask: array<u32>; // 1|B 1|H N words

fn mask_row(b: u32, h: u32, n: u32) -> u32 {
    return head_start(params.mask, b, h) + n * params.mask.token;
}

fn mask_at(row: u32, key: u32) -> bool {
    count_load(1u);
    return ((mask[row + key / 32u] >> (key % 32u)) & 1u) != 0u;
}
