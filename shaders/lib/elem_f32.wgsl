// Storage type of sequence tensors: f32.
alias Elem = f32;
