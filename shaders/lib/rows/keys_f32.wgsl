// Storage type of keys and values: always f32.
alias KeyElem = f32;
