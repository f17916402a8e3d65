// An invocation adds up one element.
alias Group = f32;
const GROUP: u32 = 1u;
