//! The kernels of the recurrences: the stages that every operator shares, and the fragments it chooses from.

use super::Params;
use super::runs::Rounding;
use crate::cores;
use crate::cores::packed::{BORDERS, BORDERS_PROOF, PACKED};
pub(crate) use crate::cores::rows::{K, KEYS_STORED, NARROW, O, OUTPUTS_STORED, Q, ROWS, V};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment};
use crate::operator::mode::Mode;
use crate::operator::qkv::{Qkv, STRIDES_SOURCE};

const TYPES: Fragment = fragment!("cores/recurrence/types.wgsl");
const PLACE: Fragment = fragment!("cores/recurrence/place.wgsl");
/// Where the tokens of a workgroup are: in one sequence per batch entry, and in packed sequences.
const SPANS: Fragment = fragment!("cores/recurrence/spans.wgsl");
const SPANS_PACKED: Fragment = fragment!("cores/recurrence/spans_packed.wgsl");
/// Computes decay factors.
const DECAYS: Fragment = fragment!("cores/recurrence/decay.wgsl");
const VECTOR_LOADS: Fragment = fragment!("cores/recurrence/vector_loads.wgsl");
/// Loads and stores of states.
const NARROW_STATE: Fragment = fragment!("cores/recurrence/rows_narrow_state.wgsl");
/// Stored segments: to read and write, and for kernels that write none.
const SEGMENTS_STORED: Fragment = fragment!("cores/recurrence/segments_stored.wgsl");
pub(crate) const SEGMENTS_READ: Fragment = fragment!("cores/recurrence/segments_read.wgsl");
const SEGMENTS_READ_WIDE: Fragment = fragment!("cores/recurrence/segments_read_wide.wgsl");
const WIDE_STATE: Fragment = fragment!("cores/recurrence/rows_wide_state.wgsl");

/// States that a kernel loads and stores by rows, besides tensors, and states that it only loads.
pub(crate) const STATES: usize = 4;
pub(crate) const STATES_READ: usize = 5;
/// Loads of a tile of keys and values, and of queries.
const TILE: Fragment = fragment!("cores/recurrence/tile.wgsl");
const TILE_QUERIES: Fragment = fragment!("cores/recurrence/tile_queries.wgsl");
/// Queries and keys as they are, and multiplied by one factor per vector.
pub(crate) const NO_FACTORS: Fragment = fragment!("cores/recurrence/factors_none.wgsl");
pub(crate) const FACTORS: Fragment = fragment!("cores/recurrence/factors.wgsl");
const STATE_WRITE: Fragment = fragment!("cores/recurrence/rank_one_update.wgsl");
const STATE_READ: Fragment = fragment!("cores/recurrence/query_state.wgsl");
const STORE_SEGMENT: Fragment = fragment!("cores/recurrence/store_segment.wgsl");
const LOAD_STATE: Fragment = fragment!("cores/recurrence/load_state.wgsl");
const SEGMENT: Fragment = fragment!("cores/recurrence/segment.wgsl");
const CHUNK: Fragment = fragment!("cores/recurrence/chunk.wgsl");
const CHUNK_SCORES: Fragment = fragment!("cores/recurrence/chunk_scores.wgsl");
const SCORES: Fragment = fragment!("cores/recurrence/scores.wgsl");
const CHUNK_OUTPUT: Fragment = fragment!("cores/recurrence/chunk_output.wgsl");
/// How outputs of chunks are stored.
const CHUNK_STORE: Fragment = fragment!("cores/recurrence/chunk_store.wgsl");
/// The chunk form by matrix units: what both kernels share, and each.
const MATRIX: Fragment = fragment!("cores/recurrence/matrix.wgsl");
const SEGMENT_MATRIX: Fragment = fragment!("cores/recurrence/segment_matrix.wgsl");
const CHUNK_MATRIX: Fragment = fragment!("cores/recurrence/chunk_matrix.wgsl");
const SCAN: Fragment = fragment!("cores/recurrence/scan.wgsl");
const OUTPUT: Fragment = fragment!("cores/recurrence/output.wgsl");
const OWN_BORDERS: Fragment = fragment!("cores/recurrence/borders.wgsl");
const ROUND: Fragment = fragment!("cores/recurrence/round.wgsl");
const DECODE_LANES: Fragment = fragment!("cores/recurrence/decode_lanes.wgsl");
const DECODE: Fragment = fragment!("cores/recurrence/decode.wgsl");
const TOKENS: Fragment = fragment!("cores/recurrence/tokens.wgsl");
const FEATURES: Fragment = fragment!("cores/recurrence/features.wgsl");

/// A walk that prepares nothing.
pub(crate) const PLAIN_WALK: Fragment = fragment!("cores/recurrence/walk_plain.wgsl");
/// Loads keys and queries whose features map each element on its own, for tiles of tokens and for one token.
pub(crate) const MAPPED_KEYS: Fragment = fragment!("cores/recurrence/load_k_mapped.wgsl");
pub(crate) const MAPPED_QUERIES: Fragment = fragment!("cores/recurrence/load_q_mapped.wgsl");
pub(crate) const MAPPED_DECODE: Fragment = fragment!("cores/recurrence/decode_mapped.wgsl");
/// What gives a token that is decoded the elements of its vectors: the tensors, or a convolution over the last tokens, with
/// or without inputs before the token.
pub(crate) const DECODE_GIVEN: Fragment = fragment!("cores/recurrence/decode_given.wgsl");
pub(super) const DECODE_CONVOLVED: Fragment = fragment!("cores/recurrence/decode_convolved.wgsl");
pub(super) const DECODE_HISTORY: Fragment = fragment!("cores/recurrence/decode_history.wgsl");
pub(super) const DECODE_HISTORY_NONE: Fragment = fragment!("cores/recurrence/decode_history_none.wgsl");
/// Rows of stored features are complete when their products are kept.
pub(crate) const PLAIN_VECTORS: Fragment = fragment!("cores/recurrence/vectors_plain.wgsl");
/// What kernels load: the vectors, or features that a dispatch before stored. Of both, of keys, and of queries.
pub(crate) const GIVEN: [Fragment; 3] = [
    fragment!("cores/recurrence/given_rows.wgsl"),
    fragment!("cores/recurrence/given_keys.wgsl"),
    fragment!("cores/recurrence/given_queries.wgsl"),
];
pub(super) const STORED_VECTORS: [Fragment; 3] = [
    fragment!("cores/recurrence/stored_rows.wgsl"),
    fragment!("cores/recurrence/stored_keys.wgsl"),
    fragment!("cores/recurrence/stored_queries.wgsl"),
];
/// The feature of an element is the element.
pub(crate) const IDENTITY: Fragment = fragment!("cores/recurrence/feature_identity.wgsl");
/// No decay: of a tile of tokens, and of one token.
pub(crate) const NO_DECAY: [Fragment; 2] =
    [fragment!("cores/recurrence/decay_none.wgsl"), fragment!("cores/recurrence/decode_decay_none.wgsl")];
/// One decay factor per head. The operator computes the logarithm of a token's.
pub(crate) const DECAY_TOKENS: Fragment = fragment!("cores/recurrence/decay_tokens.wgsl");
/// The state decays token by token; or, where no token reads it, batch by batch, in place of [`DECAY_TOKENS`].
pub(crate) const BY_TOKEN: Fragment = fragment!("cores/recurrence/by_token.wgsl");
pub(super) const DECAY_BATCHES: Fragment = fragment!("cores/recurrence/decay_batches.wgsl");
/// What the chunk form takes in place of [`DECAY_TOKENS`], of [`NO_DECAY`], and of [`MAPPED_KEYS`] and [`MAPPED_QUERIES`]:
/// what both need, and those of keys and of queries.
pub(super) const CHUNK_DECAY: Fragment = fragment!("cores/recurrence/chunk_decay.wgsl");
pub(super) const CHUNK_NO_DECAY: Fragment = fragment!("cores/recurrence/chunk_no_decay.wgsl");
pub(crate) const CHUNK_MAPPED: [Fragment; 3] = [
    fragment!("cores/recurrence/chunk_mapped.wgsl"),
    fragment!("cores/recurrence/chunk_mapped_keys.wgsl"),
    fragment!("cores/recurrence/chunk_mapped_queries.wgsl"),
];
/// Scores of chunks: computed where they are weighed, or loaded from where [`SCORES_PLACE`] says.
pub(crate) const SCORES_COMPUTED: Fragment = fragment!("cores/recurrence/chunk_scores_computed.wgsl");
pub(super) const SCORES_STORED: Fragment = fragment!("cores/recurrence/chunk_scores_stored.wgsl");
pub(super) const SCORES_PLACE: Fragment = fragment!("cores/recurrence/chunk_scores_place.wgsl");
pub(super) const CHUNK_VALUES: Fragment = fragment!("cores/recurrence/chunk_values.wgsl");
/// Values, and sums that queries read, as given.
pub(crate) const PLAIN_VALUES: Fragment = fragment!("cores/recurrence/values_plain.wgsl");
pub(crate) const PLAIN_SUMS: Fragment = fragment!("cores/recurrence/sums_plain.wgsl");
/// Outputs are complete in one dispatch.
pub(crate) const ONE_PART: Fragment = fragment!("cores/recurrence/one_part.wgsl");
/// Divides sums by weights: for a row of a tile, and for one token.
pub(crate) const NORMALIZE: [Fragment; 2] =
    [fragment!("cores/recurrence/normalize.wgsl"), fragment!("cores/recurrence/normalize_one.wgsl")];
/// Leaves outputs as they are: of a tile, and of one token.
pub(crate) const NO_EPILOGUE: [Fragment; 2] =
    [fragment!("cores/recurrence/epilogue_none.wgsl"), fragment!("cores/recurrence/decode_epilogue_none.wgsl")];

/// Why every index of the core is within bounds.
pub(crate) const PROOF: &str = "indices are below products of the consts that size the arrays, tokens below N, which no border of \
                                sequences exceeds; loops end at consts, uniforms or such borders";

/// Why every index of the scan is within bounds.
const SCAN_PROOF: &str = "no array; one element of a state an invocation, guarded by its size; loops end at uniforms or at the \
                          segments of a sequence";

/// Why every index of the rounding is within bounds.
const ROUND_PROOF: &str = "one element an invocation, guarded by the number of elements of a head; no loop";

/// The stages of an operator, under its own names.
pub(crate) struct Kernels {
    pub(crate) segment: Kernel,
    pub(crate) scan: Kernel,
    pub(crate) output: Kernel,
    pub(crate) scores: Kernel,
    pub(crate) chunk: Kernel,
    pub(crate) segment_matrix: Kernel,
    pub(crate) chunk_matrix: Kernel,
    pub(crate) decode: Kernel,
    pub(crate) tokens: Kernel,
    pub(crate) round: Kernel,
    pub(crate) borders: Kernel,
}

impl Kernels {
    /// The stages with these names, in the order of the fields.
    pub(crate) const fn new(names: [&'static str; 11]) -> Self {
        let [segment, scan, output, scores, chunk, segment_matrix, chunk_matrix, decode, tokens, round, borders] =
            names;
        let (params, proof) = (Params::UNIFORM, Some(PROOF));
        Self {
            segment: Kernel {
                entry: "recurrence_segment",
                ..Kernel::new(
                    segment,
                    &[
                        STRIDES_SOURCE,
                        TYPES,
                        PLACE,
                        DECAYS,
                        ROWS,
                        VECTOR_LOADS,
                        TILE,
                        STATE_WRITE,
                        STORE_SEGMENT,
                        SEGMENT,
                    ],
                    params,
                    proof,
                )
            },
            scan: Kernel {
                entry: "recurrence_scan",
                ..Kernel::new(scan, &[STRIDES_SOURCE, TYPES, DECAYS, SEGMENTS_STORED, SCAN], params, Some(SCAN_PROOF))
            },
            output: Kernel { entry: "recurrence_output", ..Kernel::new(output, &OUTPUT_SOURCES, params, proof) },
            scores: Kernel { entry: "recurrence_scores", ..Kernel::new(scores, &SCORE_SOURCES, params, proof) },
            chunk: Kernel { entry: "recurrence_chunk", ..Kernel::new(chunk, &CHUNK_SOURCES, params, proof) },
            segment_matrix: Kernel {
                entry: "recurrence_segment_matrix",
                ..Kernel::new(segment_matrix, &SEGMENT_MATRIX_SOURCES, params, proof)
            },
            chunk_matrix: Kernel {
                entry: "recurrence_chunk_matrix",
                ..Kernel::new(chunk_matrix, &CHUNK_MATRIX_SOURCES, params, proof)
            },
            decode: Kernel { entry: "recurrence_decode", ..Kernel::new(decode, &DECODE_SOURCES, params, None) },
            tokens: Kernel { entry: "recurrence_tokens", ..Kernel::new(tokens, &TOKENS_SOURCES, params, None) },
            borders: Kernel {
                entry: "borders",
                ..Kernel::new(
                    borders,
                    &[STRIDES_SOURCE, TYPES, SEGMENTS_STORED, OWN_BORDERS, BORDERS],
                    params,
                    Some(BORDERS_PROOF),
                )
            },
            round: self::round(round),
        }
    }
}

/// The kernel of this name that rounds sums of outputs.
pub(crate) const fn round(name: &'static str) -> Kernel {
    Kernel {
        entry: "recurrence_round",
        ..Kernel::new(name, &[STRIDES_SOURCE, ROUND], Rounding::UNIFORM, Some(ROUND_PROOF))
    }
}

/// The kernel of this name that stores features of whole vectors.
pub(crate) const fn features(name: &'static str) -> Kernel {
    Kernel {
        entry: "recurrence_features",
        ..Kernel::new(
            name,
            &[STRIDES_SOURCE, TYPES, DECAYS, ROWS, VECTOR_LOADS, FEATURES],
            Params::UNIFORM,
            Some(PROOF),
        )
    }
}

/// What a kernel needs that multiplies chunks of tokens, and one that walks along chunks.
pub(crate) const CHUNKS: [Fragment; 7] = followed(CHUNK_WALK, CHUNK);
pub(crate) const CHUNK_WALK: [Fragment; 6] = [STRIDES_SOURCE, TYPES, PLACE, DECAYS, ROWS, VECTOR_LOADS];

/// What a kernel needs that walks along the tokens in its own way and writes outputs, and one that decodes a token.
pub(crate) const WALK: [Fragment; 12] = [
    STRIDES_SOURCE,
    TYPES,
    PLACE,
    DECAYS,
    ROWS,
    VECTOR_LOADS,
    TILE,
    TILE_QUERIES,
    STATE_WRITE,
    STATE_READ,
    STORE_SEGMENT,
    LOAD_STATE,
];
pub(crate) const DECODE_WALK: [Fragment; 7] =
    [STRIDES_SOURCE, TYPES, DECAYS, ROWS, VECTOR_LOADS, OUTPUTS_STORED, DECODE_LANES];

const SCORED: [Fragment; 8] = followed(CHUNKS, CHUNK_SCORES);
const SCORE_SOURCES: [Fragment; 9] = followed(SCORED, SCORES);
const CHUNK_SOURCES: [Fragment; 10] = followed(STORED_CHUNKS, CHUNK_OUTPUT);
const STORED_CHUNKS: [Fragment; 9] = followed(SCORED, CHUNK_STORE);
const MATRIX_WALK: [Fragment; 7] = followed(CHUNK_WALK, MATRIX);
const SEGMENT_MATRIX_SOURCES: [Fragment; 8] = followed(MATRIX_WALK, SEGMENT_MATRIX);
const STORED_MATRICES: [Fragment; 8] = followed(MATRIX_WALK, CHUNK_STORE);
const CHUNK_MATRIX_SOURCES: [Fragment; 9] = followed(STORED_MATRICES, CHUNK_MATRIX);
const OUTPUT_SOURCES: [Fragment; 13] = followed(WALK, OUTPUT);
const DECODE_SOURCES: [Fragment; 8] = followed(DECODE_WALK, DECODE);
const TOKENS_SOURCES: [Fragment; 8] = followed(DECODE_WALK, TOKENS);

/// These fragments and one more: `MORE` is one more than `COUNT`.
pub(crate) const fn followed<const COUNT: usize, const MORE: usize>(
    first: [Fragment; COUNT],
    last: Fragment,
) -> [Fragment; MORE] {
    assert!(MORE == COUNT + 1, "one more than the fragments given");
    let mut all = [last; MORE];
    let mut i = 0;
    while i < COUNT {
        all[i] = first[i];
        i += 1;
    }
    all
}

/// Where the tokens of a workgroup are: the fragments and their overrides. `whole` says that packed sequences have one
/// stored segment each.
pub(crate) fn spans(mode: &Mode, whole: bool) -> (&'static [Fragment], Option<(&'static str, u32)>) {
    match mode.sequences {
        Some(_) => (&[PACKED, SPANS_PACKED], Some(("WHOLE", whole.into()))),
        None => (&[SPANS], None),
    }
}

/// Chooses how a kernel loads and stores the rows that it wants, of tensors and of states ([`cores::rows::rows`]).
pub(crate) fn rows(s: &Qkv, spec: &Variant, wanted: &[usize]) -> (Variant, Option<Variant>) {
    let (states, tensors): (Vec<usize>, Vec<usize>) = wanted.iter().partition(|wanted| **wanted >= STATES);
    let of = |stored: &[Fragment], read: &[Fragment]| {
        states.iter().flat_map(|&of| if of == STATES { stored } else { read }).copied().collect::<Vec<_>>()
    };
    let wide = of(&[SEGMENTS_STORED, WIDE_STATE], &[SEGMENTS_READ_WIDE]);
    let narrow = of(&[SEGMENTS_STORED, NARROW_STATE], &[SEGMENTS_READ, NARROW_STATE]);
    cores::rows::rows(s, spec, KEYS_STORED, &tensors, [&wide, &narrow])
}
