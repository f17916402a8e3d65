// Storage type of keys and values: single precision, whatever that of the queries.
alias KeyElem = f32;
