//! "Did you mean …": the known word nearest to a mistyped one.

/// Longer words are not compared, so that a comparison costs little.
const WORD_BYTES_MAX: usize = 64;

/// The candidate nearest to `typed`, if it is near enough to be what was meant.
pub(crate) fn nearest<'a>(
    typed: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let typed = typed.to_ascii_lowercase().replace('-', "_");
    if typed.len() > WORD_BYTES_MAX {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| {
            (distance(&typed, &candidate.to_ascii_lowercase().replace('-', "_")), candidate)
        })
        .min()
        .filter(|&(distance, candidate)| distance <= candidate.len().max(typed.len()).div_ceil(3))
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, in bytes.
fn distance(left: &str, right: &str) -> usize {
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for (row, from) in left.bytes().enumerate() {
        let mut beside = row + 1;
        let mut current = vec![beside];
        for (to, pair) in right.bytes().zip(above.windows(2)) {
            let &[diagonal, over] = pair else { continue };
            let replaced = diagonal + usize::from(from != to);
            beside = replaced.min(over + 1).min(beside + 1);
            current.push(beside);
        }
        above = current;
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest};

    #[test]
    fn the_distance_counts_insertions_removals_and_replacements() {
        for (left, right, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("drain", "drian", 2),
            ("rate", "rates", 1),
        ] {
            assert_eq!(distance(left, right), expected, "{left} {right}");
        }
    }

    #[test]
    fn a_slip_is_recognised_and_a_different_word_is_not() {
        let keys = ["packets_per_second", "packets_burst", "answer"];
        assert_eq!(nearest("packets-per-secnd", keys), Some("packets_per_second"));
        assert_eq!(nearest("Answer", keys), Some("answer"));
        assert_eq!(nearest("certificate", keys), None);
        assert_eq!(nearest(&"x".repeat(100), keys), None);
        assert_eq!(nearest("x", []), None);
    }
}
