//! Randomness: session and message ids, jitter. The simulation replaces it with its own stream, so
//! that a seed determines a run.

/// Fills `bytes` from the operating system.
///
/// # Errors
/// The operating system has no entropy (early at boot).
pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    #[cfg(test)]
    if crate::sim::net::fill_random(bytes) {
        return Ok(());
    }
    getrandom::fill(bytes)
}
