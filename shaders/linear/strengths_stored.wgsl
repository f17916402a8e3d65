// Element type of strengths: that of the tensor.
alias Strength = Elem;
