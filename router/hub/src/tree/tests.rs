//! Tests of `tree`: three layers of edge devices.

use super::*;
use crate::identity::Auth;

fn id(text: &str) -> HubId {
    HubId::parse(text).expect("an id")
}

fn identity(text: &str, is_edge: bool, scope: Option<&str>, parents: &[&str]) -> Identity {
    Identity {
        id: id(text),
        generation: String::new(),
        enabled: true,
        auth: Auth::None,
        is_edge,
        scope: scope.map(str::to_owned),
        parent_scopes: parents.iter().map(|&parent| parent.to_owned()).collect(),
    }
}

fn plant() -> Tree {
    let mut tree = Tree::new(id("gw1"), 100);
    for identity in [
        identity("gw1", true, Some("s1"), &[]),
        identity("edge2", true, Some("s2"), &["s1"]),
        identity("edge3", true, Some("s3"), &["s2"]),
        identity("d1", false, Some("s1"), &[]),
        identity("d3", false, Some("s3"), &["s3"]),
        identity("stray", false, None, &[]),
        identity("gw1/m", false, None, &[]),
        identity("edge3/m", false, None, &[]),
    ] {
        assert_eq!(tree.set(identity), Ok(true));
    }
    tree
}

#[track_caller]
fn check(tree: &Tree, of: &str, expected: Option<&str>) {
    assert_eq!(tree.chain_of(&id(of)).map(|chain| chain.to_string()).as_deref(), expected, "{of}");
}

#[test]
fn chains_lead_to_this_edge_device() {
    let tree = plant();
    check(&tree, "gw1", Some("gw1"));
    check(&tree, "gw1/m", Some("gw1/m;gw1"));
    check(&tree, "d1", Some("d1;gw1"));
    check(&tree, "edge3", Some("edge3;edge2;gw1"));
    check(&tree, "d3", Some("d3;edge3;edge2;gw1"));
    check(&tree, "edge3/m", Some("edge3/m;edge3;edge2;gw1"));
    check(&tree, "stray", None);
    check(&tree, "unknown", None);
    check(&tree, "edge2/unknown", None);
}

#[test]
fn a_device_goes_with_its_modules() {
    let mut tree = plant();
    assert!(tree.remove(&id("edge3")));
    assert!(tree.find(&id("edge3/m")).is_none());
    assert!(tree.find(&id("gw1/m")).is_some() && tree.find(&id("d3")).is_some());
    assert!(!tree.remove(&id("edge3")));
}

#[test]
fn who_leaves_its_parent_is_out_of_scope() {
    let mut tree = plant();
    assert!(tree.remove(&id("edge2")) && !tree.remove(&id("edge2")));
    check(&tree, "d3", None);
    assert_eq!(tree.set(identity("d1", false, Some("elsewhere"), &[])), Ok(true));
    check(&tree, "d1", None);
    assert_eq!(tree.set(identity("d1", false, Some("elsewhere"), &[])), Ok(false));
}

#[test]
fn a_circle_and_too_deep_a_tree_end() {
    let mut tree = Tree::new(id("gw1"), 100);
    tree.set(identity("a", true, Some("sa"), &["sb"])).expect("room");
    tree.set(identity("b", true, Some("sb"), &["sa"])).expect("room");
    check(&tree, "a", None);
    let mut tree = Tree::new(id("e0"), 100);
    for at in 0..8 {
        let parents = [format!("s{}", at - 1)];
        let scope = format!("s{at}");
        let parents: Vec<&str> = parents.iter().map(String::as_str).collect();
        tree.set(identity(&format!("e{at}"), true, Some(&scope), &parents)).expect("room");
    }
    check(&tree, "e4", Some("e4;e3;e2;e1;e0"));
    check(&tree, "e5", Some("e5;e4;e3;e2;e1;e0"));
    check(&tree, "e6", None);
}

#[test]
fn an_actor_acts_for_what_is_below_it() {
    let tree = plant();
    let chain = |text| AuthChain::parse(text).expect("a chain");
    assert_eq!(tree.actor_of(&chain("d3;edge3;edge2"), &id("d3")), Ok(id("edge2")));
    assert_eq!(tree.actor_of(&chain("d3;edge3"), &id("d3")), Ok(id("edge3")));
    assert_eq!(tree.actor_of(&chain("d1;edge2"), &id("d1")), Err(ChainError::NotBelow));
    assert_eq!(tree.actor_of(&chain("d1;edge2"), &id("d3")), Err(ChainError::Target));
    assert_eq!(tree.actor_of(&chain("stray;edge2"), &id("stray")), Err(ChainError::NotBelow));
    assert_eq!(tree.check_actor(&chain("d3;edge3;edge2"), &id("d3"), "edge2"), Ok(()));
    assert_eq!(tree.check_actor(&chain("d3;edge3;edge2"), &id("d3"), "edge3"), Err(ChainError::Actor));
    assert_eq!(tree.check_actor(&chain("d3;edge3;edge2"), &id("d3"), "x"), Err(ChainError::Actor));
}

#[test]
fn the_tree_has_a_bound() {
    let mut tree = Tree::new(id("gw1"), 1);
    assert_eq!(tree.set(identity("gw1", true, Some("s"), &[])), Ok(true));
    assert_eq!(tree.set(identity("d1", false, None, &[])), Err(TooManyIdentities(1)));
    assert_eq!(tree.set(identity("gw1", true, Some("t"), &[])), Ok(true));
    assert!(AuthChain::parse("a;b;c;d;e;f;g").is_ok() && AuthChain::parse("a;b;c;d;e;f;g;h").is_err());
}

#[test]
fn whoever_is_known_stands_where_it_is_known_to_stand() {
    let mut tree = plant();
    tree.set(identity("stray/m", false, None, &[])).expect("there is room");
    let may =
        |chain: &str, actor: &str| tree.may_be_below(&AuthChain::parse(chain).expect("a chain"), &id(actor));
    for (chain, actor, expected) in [
        ("d3;edge3;edge2", "edge2", true),
        ("d3;edge3", "edge3", true),
        ("edge2", "edge2", true),
        ("d1;edge2", "edge2", false),
        ("gw1;edge2", "edge2", false),
        // Known, but nowhere: what it is said to be below does not count.
        ("stray;edge2", "edge2", false),
        ("stray/m;edge2", "edge2", false),
        ("stray/new;edge2", "edge2", false),
        ("edge3/new;edge3;edge2", "edge2", true),
        ("d1/new;edge2", "edge2", false),
        // Unknown.
        ("new;edge3;edge2", "edge2", true),
        ("new;edge2", "edge2", true),
        ("new;gw1;edge2", "edge2", false),
        ("new", "edge2", false),
    ] {
        assert_eq!(may(chain, actor), expected, "{chain} of {actor}");
    }
    assert!(tree.is_below(&id("d3"), &id("edge2")) && tree.is_below(&id("edge3/m"), &id("edge3")));
    assert!(!tree.is_below(&id("d1"), &id("edge2")) && !tree.is_below(&id("stray"), &id("gw1")));
}
