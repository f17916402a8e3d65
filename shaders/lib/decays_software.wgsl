// Factors 2^x by which a state is multiplied again and again (decays_device.wgsl), for software adapters, whose exp2 takes longer
// than all of this. Errors have no bias.
//
// Adding 1.5 * 2^23 rounds a number to a whole one, which is then in the last bits of the sum. The uniform has this constant
// twice, so that no compiler finds that adding and subtracting it changes nothing.
fn decays(x: vec4<f32>) -> vec4<f32> {
    let raised = min(x, vec4<f32>(128.0)) + params.raise;
    let f = x - (raised - params.lower);
    var p = 0.00015453163 * f + 0.0013390863;
    p = p * f + 0.009618083;
    p = p * f + 0.05550357;
    p = p * f + 0.2402265;
    p = p * f + 0.6931472;
    p = p * f + 1.0;
    let y = p * bitcast<vec4<f32>>((bitcast<vec4<u32>>(raised) << vec4<u32>(23u)) + vec4<u32>(0x3f800000u));
    return select(y, vec4<f32>(0.0), x < vec4<f32>(-126.0));
}
