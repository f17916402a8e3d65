// Pieces of a block: the chunks that start in each range of PIECE sorted events. A slot that every token writes is therefore
// processed by as many workgroups as any other. A workgroup has PER pieces and COLUMNS value columns.
@group(0) @binding(KEYS_BINDING) var<storage, read> keys: array<u32>; // [units][block events], sorted
@group(0) @binding(RATES_BINDING) var<storage, read_write> rates: array<f32>; // [units][block events], in the order of keys
@group(0) @binding(V_BINDING) var<storage, read> v: array<Elem>; // B H N E
@group(0) @binding(MEMORY_BINDING) var<storage, read_write> memory: array<f32>; // content
@group(0) @binding(CONTRIBUTIONS_BINDING) var<storage, read_write> contributions: array<f32>; // [units][block tokens][K][E]

const REACH: u32 = 2u * PIECE; // events that the chunks of a piece can contain
const AHEAD: u32 = 8u;         // events whose loads are issued together
const SPAN: u32 = REACH + 2u;  // plus a neighbour on either side
var<workgroup> wg_keys: array<u32, PER * SPAN>;
var<workgroup> wg_rates: array<f32, PER * REACH>;
var<workgroup> wg_starts: array<u32, PER>; // RUN_START of a piece
var<workgroup> wg_any_came_in: u32;        // 1 if one of them is before its piece

struct Place {
    unit: u32,
    first_piece: u32, // first piece of the workgroup
    local: u32,       // this invocation's piece, within the workgroup
    piece: u32,       // this invocation's piece, within the block
    e: u32,           // this invocation's column
    start: u32,       // first event of the unit
    count: u32,       // events in the block
}

fn place_of(index: u32, invocation: u32) -> Place {
    var p: Place;
    p.count = block_events();
    let columns = (params.dim_v + COLUMNS - 1u) / COLUMNS;
    let piece_groups = (params.pieces + PER - 1u) / PER;
    p.unit = index / columns / piece_groups;
    p.first_piece = index / columns % piece_groups * PER;
    p.local = invocation / COLUMNS;
    p.piece = p.first_piece + p.local;
    p.e = index % columns * COLUMNS + invocation % COLUMNS;
    p.start = block_start(p.unit);
    return p;
}

// True if a chunk starts in the piece whose run started in an earlier piece.
fn came_in(p: Place, local: u32) -> bool {
    let piece = p.first_piece + local;
    return piece < params.pieces && wg_starts[local] < piece * PIECE;
}

// Whether a piece of the workgroup has such a chunk. Has a barrier for all that the workgroup stored before.
fn any_came_in(p: Place, invocation: u32) -> bool {
    if (invocation == 0u) {
        var any = false;
        for (var local = 0u; local < min(PER, params.pieces - p.first_piece); local++) {
            count_load(1u);
            wg_starts[local] = u32(carries[carry_at(p.unit, p.first_piece + local) + params.dim_v + RUN_START]);
            any |= came_in(p, local);
        }
        wg_any_came_in = u32(any);
    }
    return workgroupUniformLoad(&wg_any_came_in) == 1u;
}

// Loads the i-th key of a piece, where 0 is its left neighbour. All ones if there is no such event.
fn load_key(p: Place, local: u32, i: u32) {
    let at = (p.first_piece + local) * PIECE + i;
    var key = 0xffffffffu;
    if (at > 0u && at <= p.count) {
        count_load(1u);
        key = keys[p.start + at - 1u];
    }
    wg_keys[local * SPAN + i] = key;
}

fn load_rate(p: Place, local: u32, i: u32) {
    let at = (p.first_piece + local) * PIECE + i;
    if (at < p.count) {
        count_load(1u);
        wg_rates[local * REACH + i] = rates[p.start + at];
    }
}

// Key of the i-th event of this invocation's piece.
fn key_of(p: Place, i: u32) -> u32 {
    return wg_keys[p.local * SPAN + 1u + i];
}

fn slot_of(p: Place, i: u32) -> u32 {
    return key_of(p, i) >> BITS;
}

fn content_at(p: Place, slot: u32) -> u32 {
    return (unit_memory(p.unit) * SLOTS + slot) * params.dim_v + p.e;
}

fn value_at(p: Place, event: u32) -> u32 {
    let n = params.first_token + event / (2u * TOPK);
    return head_start(params.v, unit_batch(p.unit), unit_head(p.unit)) + n * params.v.token + p.e;
}

fn contribution_at(p: Place, event: u32) -> u32 {
    let t = event / (2u * TOPK);
    let rank = event % (2u * TOPK) - TOPK;
    return ((p.unit * params.tokens + t) * TOPK + rank) * params.dim_v + p.e;
}

// Applies the chunk that starts at the event `from` to the content `before`, or, if `runs`, every run that starts in the piece
// from there on to the content in the memory. `reads` says whether reads contribute, `carries` whether a chunk whose run goes on
// stores its effect.
//
// The loads of AHEAD events are issued together, before the events are applied one after another.
fn walk(p: Place, from_event: u32, before: f32, runs: bool, reads: bool, carries_on: bool) {
    var origin = from_event; // start of the chunk
    var content = before;
    var keep = 1.0;          // share of the content at the start that is left
    var written = false;
    for (var base = from_event / AHEAD * AHEAD; base < REACH; base += AHEAD) {
        if (base > from_event && !within(p, base, from_event, origin, runs)) {
            return;
        }
        var ahead: array<u32, AHEAD + 1u>;
        var rates_of: array<f32, AHEAD>;
        var loaded: array<f32, AHEAD>;
        var values: array<f32, AHEAD>;
        var kinds: array<u32, AHEAD>;    // 0: none of these chunks, 1: an event of one, 2: the first event of a run
        for (var j = 0u; j <= AHEAD; j++) {
            ahead[j] = key_of(p, base + j);
        }
        for (var j = 0u; j < AHEAD; j++) {
            let i = base + j;
            if (within(p, i, from_event, origin, runs)) {
                kinds[j] = select(1u, 2u, runs && is_start(p, i));
                rates_of[j] = wg_rates[p.local * REACH + i];
                if (kinds[j] == 2u) {
                    count_load(1u);
                    loaded[j] = memory[content_at(p, ahead[j] >> BITS)];
                }
                if (writes(ahead[j] % EVENTS) && rates_of[j] != 0.0) {
                    count_load(1u);
                    values[j] = f32(v[value_at(p, ahead[j] % EVENTS)]);
                }
            }
        }
        for (var j = 0u; j < AHEAD; j++) {
            if (kinds[j] != 0u) {
                let i = base + j;
                let rate = rates_of[j];
                if (kinds[j] == 2u) {
                    origin = i;
                    content = loaded[j];
                    written = false;
                    keep = 1.0;
                }
                if (writes(ahead[j] % EVENTS)) {
                    if (rate != 0.0) {
                        content += rate * (values[j] - content);
                        keep *= 1.0 - rate;
                        written = true;
                    }
                } else if (reads) {
                    count_store(1u);
                    contributions[contribution_at(p, ahead[j] % EVENTS)] = select(rate * content, 0.0, rate == 0.0);
                }
                if (ahead[j + 1u] >> BITS != ahead[j] >> BITS) {
                    // The content of a chunk whose run started in an earlier piece is only in the registers.
                    if (written || !runs) {
                        count_store(1u);
                        memory[content_at(p, ahead[j] >> BITS)] = content;
                    }
                } else if (i + 1u == origin + PIECE && carries_on) {
                    let carry = carry_at(p.unit, p.piece);
                    count_store(1u);
                    carries[carry + p.e] = content;
                    if (p.e == 0u) {
                        count_store(1u);
                        carries[carry + params.dim_v + CONTENT_KEPT] = keep;
                    }
                }
            }
        }
    }
}

// Whether the i-th event belongs to a chunk that `walk` applies.
fn within(p: Place, i: u32, from_event: u32, origin: u32, runs: bool) -> bool {
    if (i < from_event || i >= origin + PIECE || key_of(p, i) == 0xffffffffu) {
        return false;
    }
    return (runs && i < PIECE) || slot_of(p, i) == slot_of(p, origin);
}

// Whether a run starts at the i-th event.
fn is_start(p: Place, i: u32) -> bool {
    return wg_keys[p.local * SPAN + i] >> BITS != slot_of(p, i);
}

// True if the run continues after this chunk.
fn goes_on(p: Place, first: u32) -> bool {
    return slot_of(p, first + PIECE) == slot_of(p, first);
}

// The chunk, if one starts in this piece, of the run that started in an earlier piece; otherwise REACH.
fn chunk_of_run(p: Place) -> u32 {
    if (came_in(p, p.local)) {
        return chunk_from(p.piece * PIECE, wg_starts[p.local]) - p.piece * PIECE;
    }
    return REACH;
}

// The mass or a column of the content before a chunk of a run that started in an earlier piece: `kept` and `added` say where in
// the row of a piece the effect of a chunk is.
fn before_chunk(p: Place, chunk: u32, kept: u32, added: u32) -> f32 {
    let origin = wg_starts[p.local] / PIECE;
    let chunks = (p.piece * PIECE + chunk - wg_starts[p.local]) / PIECE;
    count_load(1u);
    var value = carries[carry_at(p.unit, origin) + added];
    for (var base = 1u; base < chunks; base += AHEAD) {
        var keeps: array<f32, AHEAD>;
        var adds: array<f32, AHEAD>;
        for (var j = 0u; j < AHEAD; j++) {
            if (base + j < chunks) {
                count_load(2u);
                let carry = carry_at(p.unit, origin + base + j);
                keeps[j] = carries[carry + kept];
                adds[j] = carries[carry + added];
            }
        }
        for (var j = 0u; j < AHEAD; j++) {
            if (base + j < chunks) {
                value = keeps[j] * value + adds[j];
            }
        }
    }
    return value;
}
