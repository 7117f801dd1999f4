//! An expiring map.
