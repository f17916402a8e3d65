// Element type of log decays: that of the tensor.
alias Gate = Elem;
