//! Mappings, filters and ports (RFC 4787).
