// Tensors of attention with the Yat kernel. Parameters are in cores/attention/types.wgsl.
@group(0) @binding(1) var<storage, read> q: array<Elem>;    // B H N D
@group(0) @binding(2) var<storage, read> k: array<KeyElem>; // B G M D
@group(0) @binding(3) var<storage, read> v: array<KeyElem>; // B G M E
