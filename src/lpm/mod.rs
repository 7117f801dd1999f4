//! The longest-prefix-match table.
