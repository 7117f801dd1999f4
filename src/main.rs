//! The `voicelane` program: parse, dispatch, exit code.
fn main() {}
