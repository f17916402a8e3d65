// Counting of global loads and stores, switched off: nothing is left of it.
fn count_load(elements: u32) {}
fn count_store(elements: u32) {}
