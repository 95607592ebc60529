//! Upstreams and ways to them that fail without a word: each is noticed, named, and recovered from without a restart.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::spawn;

use harness::azure::free_address;
use harness::foreign::Mosquitto;
use harness::{Authority, Proxy, QOS_1, Recorder, Router, Setup, Version, World, until, v5};

const ROUTE: &str = r#"FROM "factory/#" INTO $upstream"#;

fn gateway(address: SocketAddr) -> Setup {
    Setup::new()
        .uplink(address, Version::V5)
        .set("uplink.plant.connect_timeout_secs", 1)
        .set("routes.all", ROUTE)
}

#[track_caller]
fn wait_for_error(router: &Router, words: &str) {
    until(&format!("the status to say {words:?}"), || {
        let error = router.status()["uplinks"][0]["last_error"].as_str().unwrap_or_default().to_owned();
        error.contains(words).then_some(())
    });
}

#[track_caller]
fn expect_delivered(router: &Router, upstream: &Recorder, count: usize) {
    let record = upstream.wait_for(count);
    let mut texts: Vec<_> = record.iter().map(|message| message.text().to_owned()).collect();
    texts.dedup();
    assert_eq!(texts, (0..count).map(|number| number.to_string()).collect::<Vec<_>>());
    until("an empty lane", || (router.backlog() == 0).then_some(()));
}

fn publish(router: &Router, count: usize) {
    router.connect(&v5("publisher")).publish_all("factory/a", (0..count).map(|number| number.to_string()));
}

#[test]
fn an_upstream_that_takes_connections_and_answers_no_connect_is_given_up_and_tried_again() {
    let upstream = Recorder::start();
    upstream.greet(false);
    // Without keep-alive, too.
    let router = gateway(upstream.address()).set("uplink.plant.keep_alive_secs", 0).start();
    publish(&router, 5);
    wait_for_error(&router, "does not answer CONNECT within 1 s");
    upstream.greet(true);
    expect_delivered(&router, &upstream, 5);
}

#[test]
fn an_upstream_that_answers_pings_and_acknowledges_nothing_is_left() {
    let upstream = Recorder::start();
    let router = gateway(upstream.address()).set("uplink.plant.ack_timeout_secs", 2).start();
    upstream.withhold(true);
    publish(&router, 1);
    upstream.wait_for(1);
    wait_for_error(&router, "has acknowledged nothing for 2 s with 1 messages in flight");
    upstream.withhold(false);
    until("an empty lane", || (router.backlog() == 0).then_some(()));
    assert!(upstream.record().len() > 1, "it was sent again");
}

/// Takes connections, and never says anything.
fn swallower() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    spawn(move || {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept() {
            open.push(stream);
        }
    });
    address
}

#[test]
fn a_handshake_of_tls_that_never_ends_is_given_up_and_tried_again() {
    let authority = Authority::new();
    let upstream = Mosquitto::start_tls(&authority, &authority.server("plant", &["plant.example"], 30));
    let own = authority.client("gateway", 7);
    let network = Proxy::to(swallower());
    let router = gateway(network.address())
        .set("uplink.plant.url", format!("mqtts://{}", network.address()))
        .set("uplink.plant.ca", authority.file().display())
        .set("uplink.plant.cert", own.cert.display())
        .set("uplink.plant.key", own.key.display())
        .start();
    publish(&router, 5);
    wait_for_error(&router, "has not finished the handshake within 1 s");
    network.point_at(upstream.address());
    network.cut();
    network.mend();
    until("an empty lane", || (router.backlog() == 0).then_some(()));
    let status = router.status()["uplinks"][0].clone();
    assert_eq!(status["state"], "up", "{status}");
    // The certificate of the other end is for 30 days.
    let days = status["certificate_days"].as_i64().expect("TLS has a certificate");
    assert!((28..=30).contains(&days), "{days}");
}

/// A proxy that refuses until it is told otherwise; it understands the first bytes of both kinds.
fn moody_proxy(target: SocketAddr, is_good: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    spawn(move || {
        while let Ok((client, _)) = listener.accept() {
            let is_good = is_good.load(Ordering::SeqCst);
            // One that breaks is tried again.
            spawn(move || serve_proxy(client, target, is_good).unwrap_or_default());
        }
    });
    address
}

fn serve_proxy(mut client: TcpStream, target: SocketAddr, is_good: bool) -> std::io::Result<()> {
    let mut first = [0];
    client.read_exact(&mut first)?;
    if first[0] == 5 {
        client.read_exact(&mut [0; 2])?;
        client.write_all(&[5, 0])?;
        client.read_exact(&mut [0; 10])?;
        client.write_all(&[5, if is_good { 0 } else { 4 }, 0, 1, 0, 0, 0, 0, 0, 0])?;
    } else {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            client.read_exact(&mut first)?;
            head.push(first[0]);
        }
        let answer = if is_good { "200 OK" } else { "503 Service Unavailable" };
        client.write_all(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes())?;
    }
    if !is_good {
        return Ok(());
    }
    let server = TcpStream::connect(target)?;
    let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
    spawn(move || std::io::copy(&mut from, &mut to).unwrap_or_default());
    std::io::copy(&mut client, &mut &server).map(drop)
}

#[test]
fn a_proxy_that_refuses_is_named_and_asked_again() {
    for kind in ["http", "socks5"] {
        let upstream = Recorder::start();
        let is_good = Arc::new(AtomicBool::new(false));
        let proxy = moody_proxy(upstream.address(), Arc::clone(&is_good));
        let router =
            gateway(upstream.address()).set("uplink.plant.proxy", format!("{kind}://{proxy}")).start();
        publish(&router, 5);
        wait_for_error(&router, &format!("the proxy {proxy} does not connect us"));
        assert_eq!(upstream.connects(), 0, "{kind}: nobody went around it");
        is_good.store(true, Ordering::SeqCst);
        expect_delivered(&router, &upstream, 5);
    }
}

#[test]
fn a_proxy_that_says_nothing_is_given_up_and_asked_again() {
    let upstream = Recorder::start();
    let good = moody_proxy(upstream.address(), Arc::new(AtomicBool::new(true)));
    let network = Proxy::to(swallower());
    let router = gateway(upstream.address())
        .set("uplink.plant.proxy", format!("http://{}", network.address()))
        .start();
    publish(&router, 5);
    wait_for_error(&router, "no answer within 1 s");
    network.point_at(good);
    network.cut();
    network.mend();
    expect_delivered(&router, &upstream, 5);
}

#[test]
fn a_name_that_moves_or_vanishes_is_followed() {
    let world = World::new();
    let (first, second) = (Recorder::start(), Recorder::start());
    let here = Proxy::at((free_address(), 0).into(), first.address());
    let there = Proxy::at((free_address(), here.address().port()).into(), second.address());
    world.set_name("plant.example", Some(here.address().ip()));
    let url = format!("mqtt://plant.example:{}", here.address().port());
    let router = world.around(gateway(here.address()).set("uplink.plant.url", url)).start();
    let mut publisher = router.connect(&v5("publisher"));
    publisher.publish("factory/a", "0", QOS_1);
    assert_eq!(first.wait_for(1)[0].text(), "0");
    until("its acknowledgement", || (router.backlog() == 0).then_some(()));
    world.set_name("plant.example", Some(there.address().ip()));
    here.cut();
    publisher.publish("factory/a", "1", QOS_1);
    assert_eq!(second.wait_for(1)[0].text(), "1", "the new address, and nothing that is remembered");
    until("its acknowledgement", || (router.backlog() == 0).then_some(()));
    world.set_name("plant.example", None);
    there.cut();
    publisher.publish("factory/a", "2", QOS_1);
    wait_for_error(&router, "plant.example has no address");
    here.mend();
    world.set_name("plant.example", Some(here.address().ip()));
    assert_eq!(first.wait_for(2)[1].text(), "2");
}

#[test]
fn a_wall_clock_that_jumps_is_noticed_and_costs_no_connection() {
    let world = World::new();
    let upstream = Recorder::start();
    let router = world.around(gateway(upstream.address()).set("uplink.plant.keep_alive_secs", 600)).start();
    publish(&router, 1);
    upstream.wait_for(1);
    for (number, ahead) in [(1, 7_200), (2, -7_200), (3, 0)] {
        world.set_clock(ahead);
        router.wait_for("/uplinks/0/clock_jumps", number);
        router.connect(&v5("publisher")).publish("factory/a", number.to_string(), QOS_1);
    }
    expect_delivered(&router, &upstream, 4);
    assert_eq!((upstream.connects(), router.number("/uplinks/0/reconnects")), (1, 0));
    assert!(router.log().contains("the wall clock jumped; the connection is probed"));
}
