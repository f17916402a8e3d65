// Features for products of chunks (chunk.wgsl), for elementwise feature maps.
const STATE4: u32 = (WIDTH + 3u) / 4u;
const FIRST4: u32 = 0u;
const SECOND4: u32 = STATE4;

// The row of the stored state of feature d.
fn feature_row(d: u32) -> u32 {
    return d;
}
