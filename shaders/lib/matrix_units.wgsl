// Products of small matrices by a GPU's matrix units. A subgroup holds a matrix together; nobody reads single elements of it.
// The kernel declares the workgroup memory that matrices are loaded from and stored to: `wg_halves`, an array of vec4<f16>,
// and `wg_floats`, an array of vec4<f32>. Addresses and strides count groups of four. Strides are multiples of 16 bytes.
// matrix_emulated.wgsl defines the same without matrix units. Needs matrix_8.wgsl or matrix_16.wgsl.

// An invocation and its subgroup.
struct Lane {
    @builtin(local_invocation_index) invocation: u32,
    @builtin(subgroup_id) subgroup: u32,
}

fn subgroup_of(lane: Lane) -> u32 {
    return lane.subgroup;
}

// The end of a loop over so many matrices.
fn turns(count: u32) -> u32 {
    return count;
}

// Loads. matrix_b_transposed exchanges the rows and columns that lie in memory.
fn matrix_a(at: u32, stride: u32) -> MatrixA {
    return coopLoadT<MatrixA>(&wg_halves[at], stride);
}

fn matrix_b(at: u32, stride: u32) -> MatrixB {
    return coopLoadT<MatrixB>(&wg_halves[at], stride);
}

fn matrix_b_transposed(at: u32, stride: u32) -> MatrixB {
    return coopLoad<MatrixB>(&wg_halves[at], stride);
}

fn matrix_c(at: u32, stride: u32) -> MatrixC {
    return coopLoadT<MatrixC>(&wg_floats[at], stride);
}

fn zero_c() -> MatrixC {
    return MatrixC();
}

fn store_c(c: MatrixC, at: u32, stride: u32) {
    coopStoreT(c, &wg_floats[at], stride);
}

fn multiply_add(a: MatrixA, b: MatrixB, c: MatrixC) -> MatrixC {
    return coopMultiplyAdd(a, b, c);
}

fn scale_c(c: MatrixC, x: f32) -> MatrixC {
    return c * x;
}
