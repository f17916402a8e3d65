// The functions of matrix_units.wgsl on any device, for tests: the same data flow, one multiplication after another. Every
// invocation holds both factors and its share of the sums: its i-th is element LANES i + lane of C, counted row by row.
// TILE and LANES (invocations of a subgroup) are consts of the prelude.

// The end of a loop over so many, which only a run knows: compilers that write all loops out take minutes.
fn turns(count: u32) -> u32 {
    return count * min(params.grid.end, 1u);
}

const ELEMENTS: u32 = TILE * TILE;
const SHARE: u32 = ELEMENTS / LANES;

// Groups of four, because compilers copy arrays element by element.
alias MatrixA = array<vec4<f16>, ELEMENTS / 4u>;
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

fn matrix_a(at: u32, stride: u32) -> MatrixA {
    var a: MatrixA;
    for (var i = 0u; i < turns(ELEMENTS / 4u); i++) {
        a[i] = wg_halves[at + 4u * i / TILE * stride + i % (TILE / 4u)];
    }
    return a;
}

fn matrix_b(at: u32, stride: u32) -> MatrixB {
    return matrix_a(at, stride);
}

fn matrix_b_transposed(at: u32, stride: u32) -> MatrixB {
    var b: MatrixB;
    for (var i = 0u; i < turns(ELEMENTS); i++) {
        b[i / 4u][i % 4u] = wg_halves[at + i % TILE * stride + i / TILE / 4u][i / TILE % 4u];
    }
    return b;
}

fn matrix_c(at: u32, stride: u32) -> MatrixC {
    var c: MatrixC;
    for (var i = 0u; i < turns(SHARE); i++) {
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
    for (var i = 0u; i < turns(SHARE); i++) {
        let element = LANES * i + own_lane;
        wg_floats[at + element / TILE * stride + element % TILE / 4u][element % 4u] = own[i];
    }
}

fn multiply_add(a: MatrixA, b: MatrixB, c: MatrixC) -> MatrixC {
    var left = a;
    var right = b;
    var sum = c;
    for (var i = 0u; i < turns(SHARE); i++) {
        let row = (LANES * i + own_lane) / TILE;
        let column = (LANES * i + own_lane) % TILE;
        for (var k = 0u; k < turns(TILE); k++) {
            let factors = vec2<f16>(left[(row * TILE + k) / 4u][k % 4u], right[(k * TILE + column) / 4u][column % 4u]);
            sum[i] = fma(f32(factors.x), f32(factors.y), sum[i]);
        }
    }
    return sum;
}

fn scale_c(c: MatrixC, x: f32) -> MatrixC {
    var scaled = c;
    for (var i = 0u; i < turns(SHARE); i++) {
        scaled[i] *= x;
    }
    return scaled;
}
