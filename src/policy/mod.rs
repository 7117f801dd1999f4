//! The compiled policy and its verdicts.
