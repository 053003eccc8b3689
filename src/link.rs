//! Layer 2: one turned connection over anything that is `Read + Write`.
