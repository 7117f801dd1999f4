//! Configuration files: raw as written, then valid by construction.
