// Storage type of keys and values: the same as for queries.
alias KeyElem = Elem;
