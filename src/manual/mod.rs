//! The manual for those who carry on.
