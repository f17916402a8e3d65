// Sums of squares of a workgroup's rows and keys, for scores that need them, made from the slices that tiled attention loads.
// The lines of a tile are its rows, then its keys. Each belongs to one invocation until its sum is complete.
const LINES: u32 = ROWS + KEYS;
const LINE_TURNS: u32 = (LINES + INVOCATIONS - 1u) / INVOCATIONS;
// Where complete sums are in wg_keys: behind a slice, one vector each, since invocations that write parts of one would race.
const SQUARES_AT: u32 = KEYS * KEY_STRIDE;

var<private> own_squares: array<f32, LINE_TURNS>;

fn start_squares() {
    for (var turn = 0u; turn < LINE_TURNS; turn++) {
        own_squares[turn] = 0.0;
    }
}

// Adds one slice.
fn add_squares(invocation: u32) {
    for (var turn = 0u; turn < LINE_TURNS; turn++) {
        let line = invocation + INVOCATIONS * turn;
        for (var c = 0u; c < DIM4; c++) {
            var four: vec4<f32>;
            if (line < ROWS) {
                four = wg_rows[line * DIM4 + c];
            } else {
                four = wg_keys[min(line - ROWS, KEYS - 1u) * KEY_STRIDE + c];
            }
            var sum = own_squares[turn];
            sum += four.x * four.x;
            sum += four.y * four.y;
            sum += four.z * four.z;
            sum += four.w * four.w;
            own_squares[turn] = sum;
        }
    }
}

// Publishes the sums. A barrier must follow.
fn put_squares(invocation: u32) {
    for (var turn = 0u; turn < LINE_TURNS; turn++) {
        let line = invocation + INVOCATIONS * turn;
        if (line < LINES) {
            wg_keys[SQUARES_AT + line] = vec4<f32>(own_squares[turn]);
        }
    }
}

fn row_square(row: u32) -> f32 {
    return wg_keys[SQUARES_AT + row].x;
}

fn key_square(key: u32) -> f32 {
    return wg_keys[SQUARES_AT + ROWS + key].x;
}

// Waits until all invocations have read the sums, so that their memory can be overwritten.
fn squares_read() {
    workgroupBarrier();
}
