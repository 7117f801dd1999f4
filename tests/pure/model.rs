//! Engine and reassembly against reference models. The fuzz targets of the same names run the same steps.

mod engine;
mod reassembly;

use proptest::prelude::*;

/// Random steps. The first byte of each chooses the action evenly.
fn steps(step: usize, steps: usize) -> impl Strategy<Value = Vec<u8>> {
    (
        any::<u8>(),
        prop::collection::vec(any::<u8>(), 0..step * steps),
    )
        .prop_map(|(first, rest)| [&[first], rest.as_slice()].concat())
}

proptest! {
    /// RFC 4787 REQ-1, REQ-6, REQ-8, REQ-9, REQ-11.
    #[test]
    fn the_engine_does_what_the_model_does(bytes in steps(4, 200)) {
        engine::run(&bytes);
    }

    /// RFC 4787 REQ-14.
    #[test]
    fn reassembly_does_what_the_model_does(bytes in steps(5, 100)) {
        reassembly::run(&bytes);
    }
}
