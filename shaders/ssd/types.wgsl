// Tensors of the recurrence: b are its keys, x its values.
@group(0) @binding(1) var<storage, read> k: array<Row>; // b, B N G S
@group(0) @binding(2) var<storage, read> v: array<Row>; // x, B N H P
