// Element type of log decays: f32, as they were prepared.
alias Gate = f32;
