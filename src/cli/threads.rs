//! The number of threads of the `cpu` backend.

/// Threads per core that RAYON_NUM_THREADS may ask for. More of them only wait for each other, and many thousands end the
/// process.
const PER_CORE: usize = 4;

/// Makes the pool with fewer threads if RAYON_NUM_THREADS asks for more than are of use; returns a line that says so.
pub(super) fn cap() -> Option<String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let asked = std::env::var("RAYON_NUM_THREADS").ok()?;
    let most = most(&asked, cores)?;
    // Building fails only if there is a pool already.
    rayon::ThreadPoolBuilder::new().num_threads(most).build_global().ok()?;
    let asked = super::report::visible(&asked);
    Some(format!("RAYON_NUM_THREADS is {asked}: {most} threads are used, {PER_CORE} per core"))
}

/// The number of threads in place of so many; `None` if they are not too many, or no number.
fn most(asked: &str, cores: usize) -> Option<usize> {
    let most = cores.saturating_mul(PER_CORE);
    let digits = !asked.is_empty() && asked.bytes().all(|byte| byte.is_ascii_digit());
    // A number beyond any range is too large all the same.
    (digits && asked.parse::<usize>().map_or(true, |asked| asked > most)).then_some(most)
}

#[cfg(test)]
mod tests {
    use super::most;

    #[test]
    fn only_too_many_threads_are_replaced() {
        assert_eq!([most("1", 2), most("8", 2), most("0", 2), most("many", 2), most("", 2)], [None; 5]);
        assert_eq!([most("9", 2), most("99999999999999999999999", 2)], [Some(8), Some(8)]);
    }
}
