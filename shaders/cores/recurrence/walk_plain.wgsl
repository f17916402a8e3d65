// A walk over a segment that prepares nothing before its first tile, and stores nothing beside the state.
fn begin_walk(p: Place, segment: u32, stored: bool, invocation: u32) {}

fn end_walk(p: Place, store: bool, invocation: u32) {}
