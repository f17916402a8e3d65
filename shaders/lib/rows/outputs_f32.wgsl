// Outputs of a kernel: in f32, to be rounded once after the outputs of another run are added.
alias Out = f32;
