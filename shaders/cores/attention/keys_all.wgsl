// Every batch entry has all keys of the tensor.
fn key_count(batch: u32) -> u32 {
    return params.keys;
}

// Where the first of the workgroups that share the keys starts.
fn split_start(keys: u32) -> u32 {
    return params.first_key;
}
