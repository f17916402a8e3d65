//! Gauss-Laguerre quadrature, which turns the integral of the kernel into a sum over nodes. Pure, in f64.

use super::{Config, MAX_NODES, Poly};

/// Values of the Laguerre polynomials of degree `degree` and `degree + 1` at `x`.
fn laguerre(degree: usize, x: f64) -> (f64, f64) {
    let (mut low, mut high) = (1.0, 1.0 - x);
    for k in 1..=degree {
        let k = k as f64;
        (low, high) = (high, ((2.0 * k + 1.0 - x) * high - k * low) / (k + 1.0));
    }
    (low, high)
}

/// The rule with `nodes` nodes for `int_0^inf e^-t f(t) dt`: pairs of a node t and its weight alpha, in ascending order
/// of t.
///
/// # Panics
/// Unless `nodes` is 1 to [`MAX_NODES`].
pub fn gauss_laguerre(nodes: usize) -> Vec<(f64, f64)> {
    assert!((1..=MAX_NODES).contains(&nodes), "1 to {MAX_NODES} nodes, not {nodes}");
    let mut roots = Vec::new();
    for degree in 1..=nodes {
        // The roots of the degree below separate the roots of this degree, which are all above 0 and below 4 degree +
        // 3.
        let ends = [&[0.0], &roots[..], &[4.0 * degree as f64 + 3.0]].concat();
        roots = ends.windows(2).map(|ends| root(degree, ends[0], ends[1])).collect();
    }
    // The usual formula 1 / (t L'(t)^2) needs a difference of neighbouring polynomials. This one needs a single value,
    // at most 1e24 for the last of MAX_NODES nodes, so that its square is far from overflow.
    let weight = |t: f64| {
        let value = (nodes + 1) as f64 * laguerre(nodes, t).1;
        t / (value * value)
    };
    roots.into_iter().map(|t| (t, weight(t))).collect()
}

/// The root between two points, by bisection until no number lies between them.
fn root(degree: usize, mut low: f64, mut high: f64) -> f64 {
    let value = |x| laguerre(degree, x).0;
    let positive = value(low) > 0.0;
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return middle;
        }
        *(if (value(middle) > 0.0) == positive { &mut low } else { &mut high }) = middle;
    }
}

/// Nodes and weights of the kernel's integral: pairs `(s_r, w_r) = (t_r / C, alpha_r / C)` with C = 2 + epsilon.
///
/// # Panics
/// Unless `nodes` is 1 to [`MAX_NODES`].
pub fn nodes(epsilon: f64, nodes: usize) -> Vec<(f64, f64)> {
    let c = 2.0 + epsilon;
    gauss_laguerre(nodes).into_iter().map(|(t, alpha)| (t / c, alpha / c)).collect()
}

/// The factors of the exponential map for every node: `sqrt(w_r / F)`, `sqrt(2 s_r)` and `s_r`.
///
/// `laplace` replaces `x^2 / (C - 2 x)` by `(C^2 / 4) / (C - 2 x)`, which differs from it by a linear term. `hadamard`
/// multiplies by the squares of the map's own projections, which adds one more `1 / sqrt(F)`.
pub(super) fn factors(config: &Config) -> Vec<[f64; 3]> {
    let c = 2.0 + f64::from(config.epsilon);
    let features = config.features as f64;
    let more = match config.poly {
        Poly::Laplace => c / 2.0,
        Poly::Hadamard => 1.0 / features.sqrt(),
        _ => 1.0,
    };
    let nodes = nodes(config.epsilon.into(), config.nodes).into_iter();
    nodes.map(|(s, w)| [(w / features).sqrt() * more, (2.0 * s).sqrt(), s]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables of nodes and weights, and the nodes of the kernel at epsilon 1e-3, from numpy's laggauss.
    #[test]
    fn nodes_and_weights_are_the_known_ones() {
        let rules: [&[[f64; 4]]; 4] = [
            &[[1.0, 1.0, 0.499750124938, 0.499750124938]],
            &[
                [0.585786437627, 0.853553390593, 0.292746845391, 0.426563413590],
                [3.414213562373, 0.146446609407, 1.706253654359, 0.073186711348],
            ],
            &[
                [0.415774556783, 0.711093009929, 0.207783386698, 0.355368820554],
                [2.294280360279, 0.278517733569, 1.146566896691, 0.139189272149],
                [6.289945082937, 0.010389256502, 3.143400841048, 0.005192032235],
            ],
            &[
                [0.322547689619, 0.6031541043, 0.161193248186, 0.3014263390],
                [1.745761101158, 0.3574186924, 0.872444328415, 0.1786200362],
                [4.536620296921, 0.0388879085, 2.267176560180, 0.0194342371],
                [9.395070912301, 0.00053929471, 4.695187862219, 0.00026951260],
            ],
        ];
        for want in rules {
            let count = want.len();
            for ((t, alpha), ((s, w), row)) in
                gauss_laguerre(count).into_iter().zip(nodes(1e-3, count).iter().zip(want))
            {
                for (got, want) in [t, alpha, *s, *w].into_iter().zip(row) {
                    assert!((got - want).abs() < 1e-10, "{count} nodes: {got}, expected {want}");
                }
            }
        }
    }

    #[test]
    fn weights_sum_to_one_and_polynomials_integrate_exactly() {
        for count in 1..=MAX_NODES {
            let rule = gauss_laguerre(count);
            let sum: f64 = rule.iter().map(|(_, alpha)| alpha).sum();
            assert!((sum - 1.0).abs() < 1e-13, "{count} nodes: {sum}");
            assert!(rule.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 > 0.0), "{rule:?}");
            // int e^-t t^k dt = k!, exact up to degree 2 count - 1.
            let mut factorial = 1.0;
            for k in 1..(2 * count).min(40) {
                factorial *= k as f64;
                let got: f64 = rule.iter().map(|(t, alpha)| alpha * t.powi(k as i32)).sum();
                assert!((got / factorial - 1.0).abs() < 1e-11, "{count} nodes, t^{k}: {got}, expected {factorial}");
            }
        }
    }

    /// The kernel as approximated by few nodes, which is too flat at the peak.
    #[test]
    fn the_kernel_by_quadrature() {
        let counts = [1, 2, 3, 4, 8];
        for (x, want) in [
            (-1.0, [0.183940, 0.239936, 0.248592, 0.249766, 0.249937]),
            (-0.5, [0.0757974, 0.0828982, 0.0832859, 0.0833047, 0.0833056]),
            (0.5, [0.205936, 0.243693, 0.248971, 0.249653, 0.249750]),
            (0.75, [0.594886, 0.904438, 1.036157, 1.089135, 1.122062]),
            (0.9, [0.995194, 1.863854, 2.511720, 2.975926, 3.795871]),
            (0.99, [1.317528, 2.849797, 4.414481, 5.966414, 11.8022]),
            (1.0, [1.357783, 2.986630, 4.707627, 6.476063, 13.7588]),
        ] {
            for (count, want) in counts.into_iter().zip(want) {
                let got: f64 = nodes(1e-3, count).iter().map(|(s, w)| w * x * x * (2.0 * s * x).exp()).sum();
                // The largest values are known to four decimal places.
                let near = if want > 10.0 { 1e-4 } else { 1e-5 };
                assert!((got - want).abs() < near, "{count} nodes at {x}: {got}, expected {want}");
            }
        }
    }
}
