// An invocation adds up four neighbouring elements.
alias Group = vec4<f32>;
const GROUP: u32 = 4u;
