// What a workgroup that takes tokens in order works on, and the memory that it begins and ends with.
@group(0) @binding(MEMORY_BINDING) var<storage, read_write> memory: array<u32>; // contents, masses, positions, as the bits of f32

struct Place {
    first_column: u32, // first column of the workgroup
    column: u32,       // this invocation's column, within the workgroup
    invocation: u32,
    rank: u32,         // this invocation's first rank
    is_inside: bool,   // whether the column is one of E
    end: u32,          // behind the last token
    events: u32,       // slot of the first rank, of token 0 of the unit
    weights: u32,      // weight of the first rank, likewise
    values: u32,       // element of v of token 0
    loads: u32,        // memory at the start of the block
    stores: u32,       // memory at its end
}
