//! The compact set agrees with a naive one, whatever the order of arrival.

use std::collections::BTreeSet;

use super::SeqSet;
use crate::random::Random;

fn of(numbers: &[u64]) -> SeqSet {
    let mut set = SeqSet::new();
    for &number in numbers {
        set.insert(number);
        set.invariants();
    }
    set
}

fn naive_ranges(numbers: &BTreeSet<u64>) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, to)) if *to + 1 == number => *to = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

#[test]
fn numbers_in_order_take_no_memory() {
    let mut set = SeqSet::new();
    for number in 1..=1_000_000 {
        assert!(set.insert(number));
    }
    assert_eq!((set.len(), set.above.len()), (1_000_000, 0));
}

#[test]
fn a_repeat_is_told_from_a_first() {
    let mut set = of(&[1, 2, 5]);
    assert!(!set.insert(2) && !set.insert(5) && set.insert(4) && !set.insert(0));
    assert_eq!(set.ranges().collect::<Vec<_>>(), [(1, 2), (4, 5)]);
}

#[test]
fn a_filled_gap_frees_what_lay_above_it() {
    let mut set = SeqSet::new();
    for number in 2..=20_000 {
        set.insert(number);
    }
    set.invariants();
    assert!(set.above.len() == 5 && set.insert(1));
    set.invariants();
    assert_eq!((set.floor, set.above.len(), set.len()), (20_000, 0, 20_000));
}

#[test]
fn every_operation_agrees_with_a_naive_set() {
    for seed in 1..=25 {
        let mut random = Random::new(seed);
        let span = [20, 300, 9_000, 20_000][random.below(4) as usize];
        let (mut set, mut naive) = (SeqSet::new(), BTreeSet::new());
        let (mut other, mut other_naive) = (SeqSet::new(), BTreeSet::new());
        for _ in 0..random.below(400) {
            let number = 1 + random.below(span);
            match random.below(4) {
                0 => assert_eq!(set.insert(number), naive.insert(number), "seed {seed}"),
                1 => {
                    let to = number + random.below(span / 2 + 1);
                    set.insert_range(number, to);
                    naive.extend(number..=to);
                }
                2 => {
                    other.insert(number);
                    other_naive.insert(number);
                }
                _ => {
                    let to = number + random.below(span / 8 + 1);
                    other.insert_range(number, to);
                    other_naive.extend(number..=to);
                }
            }
            set.invariants();
            other.invariants();
        }
        assert_eq!(set.len(), naive.len() as u64, "seed {seed}");
        assert_eq!(set.ranges().collect::<Vec<_>>(), naive_ranges(&naive), "seed {seed}");
        for number in 0..=span + 2 {
            assert_eq!(set.contains(number), naive.contains(&number), "seed {seed}, {number}");
        }
        let missing = naive.difference(&other_naive).copied().collect();
        assert_eq!(set.missing_in(&other).collect::<Vec<_>>(), naive_ranges(&missing), "seed {seed}");
        let common = naive.intersection(&other_naive).count() as u64;
        assert_eq!(set.merge(&other), common, "seed {seed}");
        set.invariants();
        naive.extend(&other_naive);
        assert_eq!(set.ranges().collect::<Vec<_>>(), naive_ranges(&naive), "seed {seed}");
    }
}

#[test]
fn a_set_survives_json() {
    let set = of(&[1, 2, 3, 7, 9, 10, 12_000]);
    let text = serde_json::to_string(&set).unwrap();
    assert_eq!(text, "[[1,3],[7,7],[9,10],[12000,12000]]");
    assert_eq!(serde_json::from_str::<SeqSet>(&text).unwrap(), set);
}
