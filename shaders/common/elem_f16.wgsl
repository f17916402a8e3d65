// Storage type of sequence tensors: half precision. Arithmetic stays f32.
alias Elem = f16;
