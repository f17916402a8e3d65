// The recurrences: what is fixed for a recording. Twin of `Params` in src/ops/recurrence.rs; tests compare them.
struct Params {
    grid: Grid,
    queries: u32,        // N
    keys: u32,           // M
    heads: u32,          // H
    kv_heads: u32,       // G
    dim_k: u32,          // D
    dim_v: u32,          // E
    rows: u32,           // rows of the state: as wide as the features
    segment: u32,        // tokens in a segment of this step
    segments: u32,       // segments of this step
    col_splits: u32,     // workgroups that share the columns of a state
    head_splits: u32,    // workgroups that share the query heads of a key head
    segment_stride: u32, // elements from one segment's state to the next: state_len, and what it passes on of earlier ones
    norm_offset: u32,    // first element of `norm` in the packed state
    scale: f32,
    norm_eps: f32,
    stored_segments: u32, // segments in the workspace
    nodes: u32,           // slay: R, P or D (D + 1) / 2, F, where omega starts among the weights
    poly: u32,
    features: u32,
    omega: u32,
    first_poly: u32,      // slay: where the part of the polynomial map starts that this dispatch holds
    poly_scale: f32,
    state_len: u32,       // elements of a state: rows E, and rows more when normalised
    share: u32,           // key heads of the state that share a head of q and k: 1, or H / G for ssd
    q: Strides,
    k: Strides,
    v: Strides,
    o: Strides,
    g: Strides,           // of what makes the decay
    beta: Strides,        // linear, delta rules: of beta
    first: u32,           // and the tokens of this dispatch: from first to before end
    end: u32,
    read_page: u32,       // and among the states kept the first of those it starts from, and of those it leaves
    write_page: u32,
    skip: u32,            // ssd: where d and dt_bias start among the weights
    bias: u32,
    beside: u32,          // linear: first element in the carried state of what is beside its sums: positions or levels
    max_len: u32,         // cosformer: tokens over which weights fade to nothing
    node: array<vec4<f32>, 32>, // slay: sqrt(2 s_r), s_r, sqrt(w_r / F); performer, of the first: D^-1/4, D^-1/2, F^-1/2
}

@group(0) @binding(0) var<uniform> params: Params;

override NORMALIZE: u32 = 1u;  // whether sums of features are kept
override TRANSPOSED: u32 = 0u; // whether a matrix of the carried state is stored column after column

// Where row d, column e of a matrix of the carried state lies within it.
fn carried_at(d: u32, e: u32) -> u32 {
    return select(d * params.dim_v + e, e * params.rows + d, TRANSPOSED == 1u);
}

// Four numbers in a workgroup's index: column split fastest, so that neighbours read the same tokens.
struct Place {
    split: u32,      // column split
    head_split: u32,
    segment: u32,
    kv: u32,         // batch * G + key head
}

// The head of q and k that a key head of the state reads.
fn key_head(g: u32) -> u32 {
    return g / params.share;
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
