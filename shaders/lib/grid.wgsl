// Linear workgroup index. The host cuts a step into dispatches and folds each into x and y (src/gpu/grid.rs).
struct Grid {
    base: u32,
    end: u32,
    _pad: vec2<u32>,
}

fn group_index(grid: Grid, id: vec3<u32>, count: vec3<u32>) -> u32 {
    return grid.base + id.x + id.y * count.x;
}
