// Counters of global loads and stores, disabled: these functions do nothing.
fn count_load(elements: u32) {}
fn count_store(elements: u32) {}
