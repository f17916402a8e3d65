// The two least squared distances of each row to a part of the codes, in f32, from tiles of 64 rows and 64 codes.
// Grid: parts of the codes, tiles of rows of a unit. Reads q (the rows), k (the codes); writes found.
@group(0) @binding(FOUND_BINDING) var<storage, read_write> found: array<u32>; // R splits 3: least, second least, code

// 16 elements of each row and code of a tile, as four vectors and one that keeps rows in different banks.
var<workgroup> wg_rows: array<vec4<f32>, 320>;
var<workgroup> wg_codes: array<vec4<f32>, 320>;
var<workgroup> wg_found: array<vec3<u32>, 256>;

fn square(a: vec4<f32>, b: vec4<f32>) -> f32 {
    let d = a - b;
    return dot(d, d);
}

@compute @workgroup_size(256)
fn primitives_quantize_scan(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let split = index % params.splits;
    let blocks = (params.rows + 63u) / 64u;
    let first = index / params.splits % blocks * 64u;
    let unit = index / params.splits / blocks;
    let base = unit / params.heads * params.entry + unit % params.heads * params.inner;
    let book = unit % params.heads * params.book;
    // The row and the elements that this invocation loads of each slice.
    let own = invocation / 4u;
    let part = invocation % 4u * 4u;
    let at = own * 5u + invocation % 4u;
    let from_row = (base + min(first + own, params.rows - 1u) * params.step) * params.dim_k;
    // An invocation (x, y) compares rows y + 16 i with codes x + 16 j.
    let x = invocation % 16u;
    let y = invocation / 16u;
    let least = vec3<u32>(NONE, NONE, 0u);
    var state = array<vec3<u32>, 4>(least, least, least, least);
    let end = min((split + 1u) * params.tiles, (params.codes + 63u) / 64u);
    for (var tile = split * params.tiles; tile < end; tile++) {
        let from_code = book + min(tile * 64u + own, params.codes - 1u) * params.dim_k;
        var far = array<vec4<f32>, 4>();
        for (var e = 0u; e < params.dim_k; e += 16u) {
            let inside = within(e + part, params.dim_k);
            let elements = four_of(e + part, params.dim_k);
            count_load(select(0u, elements, first + own < params.rows));
            count_load(select(0u, elements, tile * 64u + own < params.codes));
            let row = select(vec4<f32>(0.0), load_q(from_row, e + part), inside);
            let code = select(vec4<f32>(0.0), load_k(from_code, e + part), inside);
            workgroupBarrier();
            wg_rows[at] = row;
            wg_codes[at] = code;
            workgroupBarrier();
            for (var s = 0u; s < 4u; s++) {
                let c0 = wg_codes[x * 5u + s];
                let c1 = wg_codes[(x + 16u) * 5u + s];
                let c2 = wg_codes[(x + 32u) * 5u + s];
                let c3 = wg_codes[(x + 48u) * 5u + s];
                for (var i = 0u; i < 4u; i++) {
                    let r = wg_rows[(y + 16u * i) * 5u + s];
                    far[i] += vec4<f32>(square(r, c0), square(r, c1), square(r, c2), square(r, c3));
                }
            }
        }
        for (var i = 0u; i < 4u; i++) {
            let keys = bitcast<vec4<u32>>(far[i]) & vec4<u32>(0x7fffffffu);
            for (var j = 0u; j < 4u; j++) {
                let code = tile * 64u + x + 16u * j;
                if (code < params.codes) {
                    state[i] = merged(state[i], vec3<u32>(keys[j], NONE, code));
                }
            }
        }
    }
    for (var i = 0u; i < 4u; i++) {
        workgroupBarrier();
        wg_found[invocation] = state[i];
        workgroupBarrier();
        let row = first + y + 16u * i;
        if (x == 0u && row < params.rows) {
            var all = state[i];
            for (var j = 1u; j < 16u; j++) {
                all = merged(all, wg_found[invocation + j]);
            }
            let to = ((base + row * params.step) * params.splits + split) * 3u;
            count_store(3u);
            found[to] = all.x;
            found[to + 1u] = all.y;
            found[to + 2u] = all.z;
        }
    }
}
