// What an invocation has of a row at once: four neighbouring columns. Rows, strides and starts are multiples of four.
const COLUMNS: u32 = 4u;
alias Columns = vec4<f32>;
alias Stored = vec4<Elem>;

fn total(x: Columns) -> f32 {
    return dot(x, vec4<f32>(1.0));
}

fn total_of_squares(x: Columns) -> f32 {
    return dot(x, x);
}
