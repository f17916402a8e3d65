// Counters of global loads and stores, for the test that compares them with the bytes a plan states. It has two
// counters, loads and stores, in elements.
@group(0) @binding(COUNTERS_BINDING) var<storage, read_write> counters: array<atomic<u32>, 2>;

fn count_load(elements: u32) {
    atomicAdd(&counters[0], elements);
}

fn count_store(elements: u32) {
    atomicAdd(&counters[1], elements);
}
