// What is fixed for a recording. Twin of `Params` in src/ops/linear/layout.rs; tests compare them.
struct Params {
    grid: Grid,
    queries: u32,        // N
    keys: u32,           // M
    heads: u32,          // H
    kv_heads: u32,       // G
    dim_k: u32,          // D
    dim_v: u32,          // E
    segment: u32,        // tokens in a segment of this step
    segments: u32,       // segments of this step
    col_splits: u32,     // workgroups that share the columns of a state
    head_splits: u32,    // workgroups that share the query heads of a key head
    segment_stride: u32, // elements from one segment's state to the next: D E, and D more when normalised
    norm_offset: u32,    // first element of `norm` in the packed state
    scale: f32,
    norm_eps: f32,
    stored_segments: u32, // segments in the workspace
    _pad: u32,
    q: Strides,
    k: Strides,
    v: Strides,
    o: Strides,
}

@group(0) @binding(0) var<uniform> params: Params;

override NORMALIZE: u32 = 1u; // whether sums of features are kept

// Four numbers in a workgroup's index: column split fastest, so that neighbours read the same tokens.
struct Place {
    split: u32,      // column split
    head_split: u32,
    segment: u32,
    kv: u32,         // batch * G + key head
}

fn place(index: u32) -> Place {
    var p: Place;
    var rest = index;
    p.split = rest % params.col_splits;
    rest = rest / params.col_splits;
    p.head_split = rest % params.head_splits;
    rest = rest / params.head_splits;
    p.segment = rest % params.segments;
    p.kv = rest / params.segments;
    return p;
}
