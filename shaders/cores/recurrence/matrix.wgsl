// What the recurrences' kernels for matrix units share: blocks of 64 by 64 numbers that four subgroups hold as matrices, 16 rows
// each, and how their elements are read. Single elements of a matrix cannot be: they pass through workgroup memory, half of the
// columns at a time. There, a row belongs to PARTS neighbouring invocations, or an invocation has ROWS_EACH rows.
//
// Factors are f16. What is not stored as f16 is multiplied by a power of two that makes its largest number less than 2^15. Features
// are, where they are computed: FEATURE_UNITS is 1.
//
// Matrices B lie in workgroup memory column by column, as NVIDIA's and AMD's units load them, so that rows are turned when they are
// stored: an invocation has four groups of four, and neighbours have groups whose columns and rows start in different banks.
//
// Consts of the prelude: LANES, invocations of a subgroup. Needs lib/matrix_units.wgsl or lib/matrix_emulated.wgsl.
const SUBGROUPS: u32 = 4u;
const INVOCATIONS: u32 = SUBGROUPS * LANES;
const COL_THREADS: u32 = 16u; // groups of four columns
const SUBGROUP_ROWS: u32 = 16u;
const ROWS: u32 = SUBGROUPS * SUBGROUP_ROWS;
const ROW_TILES: u32 = SUBGROUP_ROWS / TILE; // of a subgroup
const COLUMN_TILES: u32 = 4u * COL_THREADS / TILE;
const HALF_TILES: u32 = COLUMN_TILES / 2u;

// Sizes and strides of workgroup memory count groups of four elements. Rows have 16 bytes of padding, so that they start in
// different banks.
const TILE4: u32 = TILE / 4u;
const COLUMN_STRIDE: u32 = COL_THREADS + 2u;
const HALF4: u32 = COL_THREADS / 2u;
const FLOAT_STRIDE: u32 = HALF4 + 1u;

const PARTS: u32 = max(INVOCATIONS / ROWS, 1u);
const ROWS_EACH: u32 = max(ROWS / INVOCATIONS, 1u);
const PART4: u32 = HALF4 / PARTS;

// Half of the columns of a block, [ROWS][FLOAT_STRIDE].
var<workgroup> wg_floats: array<vec4<f32>, ROWS * FLOAT_STRIDE>;

alias Block = array<MatrixC, ROW_TILES * COLUMN_TILES>;

// Groups of four elements of a block that an invocation has: of row i, half h and group c of its part, at share_at(i, h, c).
alias Share = array<vec4<f32>, ROWS_EACH * 2u * PART4>;

fn share_at(i: u32, half: u32, c: u32) -> u32 {
    return (i * 2u + half) * PART4 + c;
}

// The row that is the i-th of an invocation, and the group of columns that is the c-th of its part in a half.
fn own_row(invocation: u32, i: u32) -> u32 {
    return invocation / PARTS + INVOCATIONS / PARTS * i;
}

fn own_group(invocation: u32, half: u32, c: u32) -> u32 {
    return half * HALF4 + own_part(invocation) + c;
}

// The first group of an invocation in a half.
fn own_part(invocation: u32) -> u32 {
    return invocation % PARTS * PART4;
}

// Item i of a square of four rows by four columns each: its group of columns, of so many, and its group of rows, of 8 or more.
fn turned_columns(i: u32, groups: u32) -> u32 {
    return i % 4u + i / 32u % (groups / 4u) * 4u;
}

fn turned_rows(i: u32, groups: u32) -> u32 {
    return i / 4u % 8u + i / (8u * groups) * 8u;
}

// How many squares of `count` an invocation has, and whether item i is one of them.
fn square_turns(count: u32) -> u32 {
    return max(count / INVOCATIONS, 1u);
}

fn is_square(i: u32, count: u32) -> bool {
    return count % INVOCATIONS == 0u || i < count;
}

alias Square = array<vec4<f16>, 4>;

// Stores four rows as columns: the first column at `at`.
fn store_turned(at: u32, stride: u32, square: Square) {
    for (var x = 0u; x < 4u; x++) {
        wg_halves[at + x * stride] = vec4<f16>(square[0][x], square[1][x], square[2][x], square[3][x]);
    }
}

fn clear_block(block: ptr<function, Block>) {
    for (var i = 0u; i < turns(ROW_TILES * COLUMN_TILES); i++) {
        (*block)[i] = zero_c();
    }
}

// Stores half of the columns of a block from the registers of the subgroups, of which this one has the rows from first_row on.
fn store_half(block: ptr<function, Block>, half: u32, first_row: u32) {
    for (var r = 0u; r < turns(ROW_TILES); r++) {
        for (var e = 0u; e < turns(HALF_TILES); e++) {
            let at = (first_row + r * TILE) * FLOAT_STRIDE + e * TILE4;
            store_c((*block)[r * COLUMN_TILES + half * HALF_TILES + e], at, FLOAT_STRIDE);
        }
    }
}

// The share of an invocation in a block.
fn share_of(block: ptr<function, Block>, first_row: u32, invocation: u32) -> Share {
    var share: Share;
    for (var half = 0u; half < turns(2u); half++) {
        workgroupBarrier();
        store_half(block, half, first_row);
        workgroupBarrier();
        for (var i = 0u; i < ROWS_EACH; i++) {
            for (var c = 0u; c < PART4; c++) {
                share[share_at(i, half, c)] = wg_floats[own_row(invocation, i) * FLOAT_STRIDE + own_part(invocation) + c];
            }
        }
    }
    return share;
}

// The exponent of a positive number, as far as scaling by its power stays within f32.
fn exponent_of(x: f32) -> i32 {
    return max(i32(bitcast<u32>(x) >> 23u) - 127, -100);
}

// 2^e.
fn power(e: i32) -> f32 {
    return bitcast<f32>(u32(clamp(e, -126, 127) + 127) << 23u);
}

const TOP: i32 = 14; // exponent of the largest of scaled numbers

// The largest size of four numbers. Those that are no finite numbers have no part in a unit.
fn largest_of(x: vec4<f32>) -> f32 {
    let bits = bitcast<vec4<u32>>(abs(x));
    let size = select(vec4<u32>(0u), bits, bits < vec4<u32>(0x7f800000u));
    return bitcast<f32>(max(max(size.x, size.y), max(size.z, size.w)));
}
