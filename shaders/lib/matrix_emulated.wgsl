// The functions of matrix_units.wgsl on any device, for tests: the same data flow, one multiplication after another. Every
// invocation holds both factors and its share of the sums: its i-th is element LANES i + lane of C, counted row by row.
// TILE and LANES (invocations of a subgroup) are consts of the prelude.
const ELEMENTS: u32 = TILE * TILE;
const SHARE: u32 = ELEMENTS / LANES;

alias MatrixA = array<f16, ELEMENTS>;
alias MatrixB = MatrixA; // naga writes two types for equal arrays of two names
alias MatrixC = array<f32, SHARE>;

struct Lane {
    @builtin(local_invocation_index) invocation: u32,
}

var<private> own_lane: u32;

fn subgroup_of(lane: Lane) -> u32 {
    own_lane = lane.invocation % LANES;
    return lane.invocation / LANES;
}

fn half_at(at: u32, stride: u32, row: u32, column: u32) -> f16 {
    return wg_halves[at + row * stride + column / 4u][column % 4u];
}

fn matrix_a(at: u32, stride: u32) -> MatrixA {
    var a: MatrixA;
    for (var i = 0u; i < ELEMENTS; i++) {
        a[i] = half_at(at, stride, i / TILE, i % TILE);
    }
    return a;
}

fn matrix_b(at: u32, stride: u32) -> MatrixB {
    return matrix_a(at, stride);
}

fn matrix_b_transposed(at: u32, stride: u32) -> MatrixB {
    var b: MatrixB;
    for (var i = 0u; i < ELEMENTS; i++) {
        b[i] = half_at(at, stride, i % TILE, i / TILE);
    }
    return b;
}

fn matrix_c(at: u32, stride: u32) -> MatrixC {
    var c: MatrixC;
    for (var i = 0u; i < SHARE; i++) {
        let element = LANES * i + own_lane;
        c[i] = wg_floats[at + element / TILE * stride + element % TILE / 4u][element % 4u];
    }
    return c;
}

fn zero_c() -> MatrixC {
    return MatrixC();
}

fn store_c(c: MatrixC, at: u32, stride: u32) {
    var own = c;
    for (var i = 0u; i < SHARE; i++) {
        let element = LANES * i + own_lane;
        wg_floats[at + element / TILE * stride + element % TILE / 4u][element % 4u] = own[i];
    }
}

fn multiply_add(a: MatrixA, b: MatrixB, c: MatrixC) -> MatrixC {
    var left = a;
    var right = b;
    var sum = c;
    for (var i = 0u; i < SHARE; i++) {
        let element = LANES * i + own_lane;
        for (var k = 0u; k < TILE; k++) {
            sum[i] = fma(f32(left[element / TILE * TILE + k]), f32(right[k * TILE + element % TILE]), sum[i]);
        }
    }
    return sum;
}
