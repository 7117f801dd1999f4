//! Suggestions for misspelt words.

/// The candidate that `word` most likely misspells.
pub(super) fn closest<T: AsRef<str>>(
    word: &str,
    candidates: impl IntoIterator<Item = T>,
) -> Option<T> {
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(word, candidate.as_ref()),
                candidate,
            )
        })
        .filter(|(edits, candidate)| *edits <= candidate.as_ref().len().max(3) / 3)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_is_recognised_and_another_word_is_not() {
        let keys = ["prefixes", "ports", "dscp"];
        assert_eq!(closest("prefxies", keys), Some("prefixes"));
        assert_eq!(closest("port", keys), Some("ports"));
        assert_eq!(closest("colour", keys), None);
        assert_eq!(closest("x", keys), None);
    }
}
