// Storage type of sequence tensors: f16. Arithmetic is f32.
alias Elem = f16;
