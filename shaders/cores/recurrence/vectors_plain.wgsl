// Rows of features are complete when their products are kept.
fn finish_vectors(home: u32, count: u32, invocation: u32) {}
