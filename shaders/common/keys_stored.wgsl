// Storage type of keys and values: that of the queries.
alias KeyElem = Elem;
