//! Many clients and bad neighbours: memory has bounds, and whoever is slow is alone with it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::{Client, Connection, OutgoingPublish, QOS_0, QOS_1, Router, Setup, v3, v5};

const IDLE: usize = 2_000;

#[test]
fn two_thousand_idle_connections_are_held_for_little_memory_and_all_are_reachable() {
    let router = Setup::new().set("limits.connections_max", 5_000).start();
    let before = router.memory_bytes();
    let mut clients: Vec<_> = (0..IDLE)
        .map(|number| {
            let id = format!("idle-{number}");
            router.connect(&if number % 2 == 0 { v5(&id) } else { v3(&id) })
        })
        .collect();
    router.wait_for("/clients", IDLE as u64);
    let each = (router.memory_bytes() - before) / IDLE as u64;
    assert!(each <= 12_288, "{each} bytes for each idle connection");
    for (number, client) in clients.iter_mut().enumerate() {
        client.subscribe(&format!("to/{number}"), QOS_1);
    }
    let mut publisher = router.connect(&v5("publisher"));
    for number in 0..IDLE {
        publisher.send(&OutgoingPublish { topic: &format!("to/{number}"), qos: QOS_0, ..Default::default() });
    }
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.message().topic, format!("to/{number}"));
    }
}

/// A client that subscribes to `load` and never reads again.
#[track_caller]
fn deaf(router: &Router, name: &str, qos: harness::Qos) -> Connection {
    let mut client = router.connect(&v5(name));
    client.subscribe("load", qos);
    client.into_connection()
}

#[test]
fn a_subscriber_that_reads_nothing_slows_nobody_and_memory_stays_bounded() {
    // What may pile up for one deaf socket: 1 MiB of outbox and 1 MiB of queue, and the kernel's own buffers.
    let setup = Setup::new().set("limits.outbox_bytes_max", 1_048_576);
    let router = setup.set("limits.session_queue_bytes_max", 1_048_576).start();
    let _deaf: Vec<_> = (0..4)
        .map(|number| deaf(&router, &format!("deaf-{number}"), if number % 2 == 0 { QOS_0 } else { QOS_1 }))
        .collect();
    let mut quick = router.connect(&v5("quick"));
    quick.subscribe("load", QOS_1);
    let before = router.memory_bytes();
    let payload = vec![b'x'; 32 << 10];
    let mut publisher = router.connect(&v5("publisher"));
    // 128 MiB for each: sixty times what may pile up.
    for _ in 0..64 {
        publisher.publish_all("load", std::iter::repeat_n(&payload, 64));
        for message in quick.messages(64) {
            assert_eq!(message.payload.len(), payload.len());
        }
    }
    let grown = router.memory_bytes().saturating_sub(before) >> 20;
    assert!(grown <= 96, "{grown} MiB for four deaf subscribers");
    router.wait_for("/counters/dropped_outbox_full", 1);
    router.wait_for("/counters/dropped_queue_full", 1);
}

#[test]
fn a_stored_session_that_reads_nothing_waits_on_disk_and_not_in_memory() {
    let setup = Setup::new().set("limits.outbox_bytes_max", 1_048_576);
    let setup = setup.set("store.memtable_bytes", 1_048_576);
    let router = setup.set("limits.session_queue_bytes_max", 1_048_576).start();
    let connect = harness::Connect { session_expiry_secs: 600, clean_start: false, ..v5("deaf") };
    let mut deaf = router.connect(&connect).manual();
    deaf.subscribe("load", QOS_1);
    let mut publisher = router.connect(&v5("publisher"));
    let payload = |number: usize| [number.to_be_bytes().as_slice(), &[b'x'; 16 << 10]].concat();
    publisher.publish_all("load", (0..64).map(payload));
    let before = router.memory_bytes();
    for batch in 1..128 {
        publisher.publish_all("load", (batch * 64..batch * 64 + 64).map(payload));
    }
    let grown = router.memory_bytes().saturating_sub(before) >> 20;
    assert!(grown <= 64, "{grown} MiB while 127 MiB wait on disk");
    // And it is all there once it reads.
    let mut deaf = Client::connect(router.address(), &connect);
    for number in 0..128 * 64 {
        assert!(deaf.message().payload == payload(number), "message {number}");
    }
}

#[test]
fn publishers_faster_than_the_disk_are_slowed_and_not_buffered() {
    let setup = Setup::new().set("limits.commit_bytes_max", 1_048_576).set("store.memtable_bytes", 4_194_304);
    let router = setup.start();
    let connect = harness::Connect { session_expiry_secs: 600, clean_start: false, ..v5("absent") };
    let mut absent = router.connect(&connect);
    absent.subscribe("load", QOS_1);
    absent.disconnect();
    let over = AtomicBool::new(false);
    let most = std::thread::scope(|scope| {
        for publisher in 0..4 {
            let (router, over) = (&router, &over);
            scope.spawn(move || {
                let mut client = router.connect(&v5(&format!("publisher-{publisher}")));
                let payload = vec![b'x'; 8 << 10];
                while !over.load(Ordering::SeqCst) {
                    client.publish_all("load", std::iter::repeat_n(&payload, 500));
                }
            });
        }
        let mut most = 0;
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_secs(3) {
            most = most.max(router.memory_bytes());
            std::thread::yield_now();
        }
        over.store(true, Ordering::SeqCst);
        most
    });
    assert!(most <= 256 << 20, "{} MiB", most >> 20);
    assert!(router.number("/store/records") > 1_000);
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let router = Router::with_shards(2);
    let round = |number: usize| {
        let mut client = router.connect(&v5(&format!("client-{number}")));
        client.subscribe(&format!("topic/{number}/#"), QOS_1);
        client.publish(&format!("topic/{number}/a"), vec![b'x'; 4_096], QOS_1);
        client.message();
        if number.is_multiple_of(2) { client.vanish() } else { client.disconnect() }
    };
    (0..500).for_each(round);
    let before = router.memory_bytes();
    (500..2_500).for_each(round);
    harness::until("all of them to be gone", || {
        let status = router.status();
        (status["clients"] == 0 && status["sessions"] == 0).then_some(())
    });
    let grown = router.memory_bytes().saturating_sub(before) >> 20;
    assert!(grown <= 8, "{grown} MiB after 2 000 more connections");
}
