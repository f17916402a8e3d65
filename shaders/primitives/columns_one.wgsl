// What an invocation has of a row at once: one column.
const COLUMNS: u32 = 1u;
alias Columns = f32;
alias Stored = Elem;

fn total(x: Columns) -> f32 {
    return x;
}

fn total_of_squares(x: Columns) -> f32 {
    return x * x;
}
