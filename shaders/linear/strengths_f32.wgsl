// Element type of strengths: f32, as they were prepared.
alias Strength = f32;
