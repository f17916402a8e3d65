// What follows the sums of a product: four neighbouring elements of o, whose first is `at` and of which `elements` are
// there. Needs exponential.wgsl, activations.wgsl, normal.wgsl, and a fragment each of o_*, times_* and residual_*.
override ACTIVATION: u32 = 0u; // 0: none; 1: SiLU; 2: GELU; 3: GELU by tanh; 4: ReLU; 5: its square; 6: sigmoid

// The split of K that the sums are of: here there is one.
var<private> own_split: u32;

fn sigmoids(x: vec4<f32>) -> vec4<f32> {
    let most = vec4<f32>(87.0);
    return 1.0 / (1.0 + exponentials(-clamp(x, -most, most)));
}

fn activated(x: vec4<f32>) -> vec4<f32> {
    switch (ACTIVATION) {
        case 1u: {
            return silus(x);
        }
        case 2u: {
            return x * normal_shares(x);
        }
        case 3u: {
            // (1 + tanh y) / 2 is the sigmoid of 2 y.
            return x * sigmoids(1.5957691216057308 * (x + 0.044715 * x * x * x));
        }
        case 4u: {
            return max(x, vec4<f32>(0.0));
        }
        case 5u: {
            let positive = max(x, vec4<f32>(0.0));
            return positive * positive;
        }
        case 6u: {
            return sigmoids(x);
        }
        case 7u: {
            return -vec4<f32>(softplus(-x.x), softplus(-x.y), softplus(-x.z), softplus(-x.w));
        }
        default: {
            return x;
        }
    }
}

fn finish(at: u32, elements: u32, sums: vec4<f32>) {
    let values = with_times(at, elements, activated(sums)) * params.scale;
    count_store(elements);
    store_o(at, elements, with_residual(at, elements, values));
}
