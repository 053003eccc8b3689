//! Interim (1xx) responses: the bound on those before a final one, for readers of responses, and
//! the 100 that this crate writes.

use crate::error::Refusal;
use crate::limits::Limits;

/// The answer to `Expect: 100-continue` (RFC 9110 §15.2.1).
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The reason for a refusal beyond the bound; the caller puts the subject before it.
const TOO_MANY: &str = "sent more interim responses than informational_max";

/// Counts the interim responses before one final response, up to
/// [`informational_max`](Limits::informational_max). A 101 is not one of them: it ends HTTP.
///
/// ```
/// use reverse_http::{Limits, proto::interim::InterimCount};
///
/// let (limits, mut interim) = (Limits::default(), InterimCount::default());
/// for _ in 0..limits.informational_max {
///     interim.count(&limits)?;
/// }
/// assert_eq!(interim.count(&limits).unwrap_err().status, 502);
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterimCount(usize);

impl InterimCount {
    /// Counts one more interim response.
    ///
    /// # Errors
    /// 502: there were already as many as the limit allows. The reason has no subject: `sent more
    /// interim responses than informational_max`.
    pub fn count(&mut self, limits: &Limits) -> Result<(), Refusal> {
        if self.0 >= limits.informational_max {
            return Err(Refusal::new(502, TOO_MANY));
        }
        self.0 += 1;
        Ok(())
    }

    /// Returns true if none has come.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}
