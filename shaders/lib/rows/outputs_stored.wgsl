// Outputs of a kernel: in the storage type of the tensor.
alias Out = Elem;
