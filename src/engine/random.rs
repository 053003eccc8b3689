//! Randomness: session and message ids, jitter. The simulation puts a stream of its own in its
//! place, so that a seed tells all.

/// Fills `bytes` from the operating system.
///
/// # Errors
/// It has no entropy (early at boot).
pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    #[cfg(test)]
    if crate::sim::net::fill_random(bytes) {
        return Ok(());
    }
    getrandom::fill(bytes)
}
