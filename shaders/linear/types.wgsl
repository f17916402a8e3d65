// Keys and values.
@group(0) @binding(1) var<storage, read> k: array<Row>; // B G M D
@group(0) @binding(2) var<storage, read> v: array<Row>; // B G M E
