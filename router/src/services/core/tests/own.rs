//! What the gateway's own twin wants, after a start where the newest cannot be had.

use super::*;

fn wanting(version: u64, route: &str) -> Twin {
    let Value::Object(desired) = json!({"routes": {"a": route}}) else { panic!("an object") };
    Twin { desired, desired_version: Some(version), ..Twin::default() }
}

fn started(newest: u64, granted: Option<u64>) -> Bench {
    let own = hub::HubId::parse("gw1/$edgeHub").expect("an id");
    let mut bench = Bench::new(true);
    let granted = granted.map(|version| wanting(version, "good"));
    bench.core.follow(&own, Some(wanting(newest, "newest")), granted);
    bench
}

impl Core {
    /// Takes every wish there is; those of these versions are granted.
    fn granted_versions(&mut self, good: &[u64]) -> Vec<u64> {
        let mut asked = Vec::new();
        while let Some(wish) = self.take_wish() {
            asked.push(wish.version);
            let result = if good.contains(&wish.version) { Ok(()) } else { Err("no route".to_owned()) };
            self.granted(wish.version, &result);
        }
        asked
    }

    fn said_of_itself(&self) -> (Value, Value) {
        let twin = &self.clients["gw1/$edgeHub"].twin.reported;
        (twin["lastDesiredVersion"].clone(), twin["lastDesiredStatus"]["code"].clone())
    }
}

#[test]
fn what_was_granted_before_is_granted_again_where_the_newest_cannot_be() {
    let mut bench = started(6, Some(5));
    assert_eq!(bench.core.granted_versions(&[5]), [6, 5]);
    assert_eq!(bench.core.said_of_itself(), (json!(6), json!(400)), "of the newest");
    assert_eq!(bench.core.take_granted(), None, "it is kept already");
    // With something in effect a bad one changes nothing.
    bench.core.on_desired("gw1/$edgeHub", 7, br#"{"routes": {"a": "bad"}}"#, bench.now);
    assert_eq!(bench.core.granted_versions(&[5]), [7]);
    bench.core.on_desired("gw1/$edgeHub", 8, br#"{"routes": {"a": "better"}}"#, bench.now);
    assert_eq!(bench.core.granted_versions(&[8]), [8]);
    assert_eq!(bench.core.said_of_itself(), (json!(8), json!(200)));
    assert_eq!(bench.core.take_granted(), Some(wanting(8, "better")));
    assert_eq!(bench.core.take_granted(), None, "once");
}

#[test]
fn the_newest_goes_first_and_nothing_older_where_it_is_granted() {
    let mut bench = started(6, Some(5));
    assert_eq!(bench.core.granted_versions(&[5, 6]), [6]);
    assert_eq!(bench.core.take_granted(), Some(wanting(6, "newest")));
    let mut bench = started(6, None);
    assert_eq!(bench.core.granted_versions(&[5]), [6]);
    assert_eq!(bench.core.said_of_itself(), (json!(6), json!(400)));
}
