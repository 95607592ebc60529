//! Ranges of places, (first, last) each: what is left of them without others.
//!
//! Knows: numbers. Never: what they stand for.

/// What is left of a range without others, whose first places ascend.
pub(crate) fn without(
    (first, last): (u64, u64),
    others: impl IntoIterator<Item = (u64, u64)>,
) -> Vec<(u64, u64)> {
    let (mut left, mut from) = (Vec::new(), first);
    for (start, end) in others.into_iter().take_while(|(start, _)| *start <= last) {
        if start > from {
            left.push((from, start - 1));
        }
        from = from.max(end + 1);
    }
    if from <= last {
        left.push((from, last));
    }
    left
}
