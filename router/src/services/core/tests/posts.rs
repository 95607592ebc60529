//! Messages of the cloud that come again, and others that only look so.

use super::*;

const BAG: &str = "%24.to=x&%24.mid=switch";

impl Bench {
    /// The message as it comes over a link; whether it was passed on.
    fn switch(&mut self, link: u64, id: u16) -> bool {
        let topic = format!("devices/d1/messages/devicebound/{BAG}");
        let heard = Heard { topic, payload: b"on".to_vec(), ack: Some(ack(link, id)) };
        self.core.on_news(News::Heard("d1".into(), heard), self.now);
        self.told().len() == 1
    }

    fn take(&mut self) {
        let token = *self.core.posts.keys().last().expect("a message");
        self.ask(HubRequest::Posted { token });
    }

    fn new_link(&mut self) {
        self.core.on_news(News::Down("d1".into()), self.now);
        self.up();
        // What we want to hear is said again and again.
        self.up();
    }
}

fn listening() -> Bench {
    let mut bench = Bench::new(true);
    bench.connect(&[Feature::CloudToDevice]);
    bench.up();
    assert!(bench.switch(1, 1));
    bench.take();
    assert_eq!(bench.posts(), [complete(1, 1)]);
    bench
}

#[test]
fn a_command_that_is_given_again_is_another_message() {
    // Its acknowledgement has arrived: the link has lived on.
    let mut bench = listening();
    bench.pass(120_000);
    bench.new_link();
    assert!(bench.switch(2, 1), "passed on");
    assert_eq!(bench.posts(), [], "and not completed before the device has it");
    // It would have come at once over the new link.
    let mut bench = listening();
    bench.new_link();
    bench.pass(60_000);
    assert!(bench.switch(2, 1));
    // It is known again once.
    let mut bench = listening();
    bench.new_link();
    assert!(!bench.switch(2, 1));
    assert_eq!(bench.posts(), [complete(2, 1)]);
    assert!(bench.switch(2, 2));
    assert!(bench.core.posts.len() == 1, "what has ended is not kept");
}

#[test]
fn what_may_not_have_ended_in_the_cloud_is_known_again_however_long_no_link_is_there() {
    let mut bench = listening();
    bench.core.on_news(News::Down("d1".into()), bench.now);
    bench.pass(86_400_000);
    bench.up();
    bench.pass(59_000);
    assert!(!bench.switch(2, 1));
    assert_eq!(bench.posts(), [complete(2, 1)]);
    // The device acknowledges it only when the new link is there.
    let mut bench = Bench::new(true);
    bench.connect(&[Feature::CloudToDevice]);
    bench.up();
    assert!(bench.switch(1, 1));
    bench.new_link();
    bench.pass(600_000);
    bench.take();
    bench.pass(59_000);
    assert!(!bench.switch(2, 1));
    assert_eq!(bench.posts(), [complete(2, 1)]);
}
