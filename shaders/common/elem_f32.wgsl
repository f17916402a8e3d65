// Storage type of sequence tensors: single precision.
alias Elem = f32;
