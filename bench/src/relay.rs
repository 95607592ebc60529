//! The yardstick: a TCP relay between each publisher and its subscriber. It copies bytes and looks at none of them.
//!
//! Knows: just enough MQTT to bring both ends up (CONNECT, SUBSCRIBE), so that the same load generator can drive it.
//! Never: a PUBLISH. What a subscriber acknowledges goes back to its publisher as it is, so at QoS 1 every message
//! takes the same reads and writes as with a broker. A pair shares one task: no thread is ever crossed, which is
//! less than any broker with several threads can do.
//! Limits: load of pairs only (`load/{publisher}` to `load/{subscriber}`), client identifiers as loadgen gives them.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use wire::{ConnAck, Packet, ReasonCode, SubAck, Version};

/// Bytes copied at most at once, in each direction.
const COPY_BYTES: usize = 64 << 10;
/// Pairs that may wait for a thread that is busy.
const PAIRS_WAITING_MAX: usize = 1_024;
/// How long a client may take to say who it is.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);
const PACKET_BYTES_MAX: u32 = 64 << 10;

/// Both ends of a pair, on their way to the thread that serves them.
type Pair = (std::net::TcpStream, std::net::TcpStream);

/// Serves until the process is stopped. Writes the address into `ready_file` as Millrace does.
pub(crate) fn run(threads: u32, ready_file: &Path) -> anyhow::Result<()> {
    let mut copiers = Vec::new();
    for number in 0..threads.max(1) {
        let (pairs, waiting) = mpsc::channel(PAIRS_WAITING_MAX);
        std::thread::Builder::new().name(format!("relay-{number}")).spawn(move || copier(waiting))?;
        copiers.push(pairs);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?.to_string();
        let ready = serde_json::json!({ "listeners": [{ "name": "tcp", "address": address }] });
        std::fs::write(ready_file, ready.to_string())?;
        let mut waiting = HashMap::new();
        let mut turn = 0;
        loop {
            let (stream, _) = listener.accept().await?;
            // One after the other: this is before the load, and nothing of it is measured.
            let Ok(Ok((client, stream))) = tokio::time::timeout(HELLO_PATIENCE, greet(stream)).await else {
                continue;
            };
            let Some((partner, partner_stream)) = waiting.remove(&client.partner()) else {
                waiting.insert(client, (client, stream));
                continue;
            };
            let pair = if partner.publishes { (partner_stream, stream) } else { (stream, partner_stream) };
            turn = (turn + 1) % copiers.len();
            copiers[turn].send(pair).await.ok().context("a relay thread is gone")?;
        }
    })
}

/// One thread: copies for the pairs it is given.
fn copier(mut pairs: mpsc::Receiver<Pair>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        while let Some((publisher, subscriber)) = pairs.recv().await {
            let (mut publisher, mut subscriber) =
                (TcpStream::from_std(publisher)?, TcpStream::from_std(subscriber)?);
            tokio::spawn(async move {
                // A connection that breaks ends its pair; the load generator sees it and says so.
                tokio::io::copy_bidirectional_with_sizes(
                    &mut publisher,
                    &mut subscriber,
                    COPY_BYTES,
                    COPY_BYTES,
                )
                .await
                .ok();
            });
        }
        Ok(())
    })
}

/// Who a client is: its number, and on which end of its pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Client {
    publishes: bool,
    number: u32,
}

impl Client {
    /// `loadgen-p7` publishes to `loadgen-s7`.
    fn parse(client_id: &str) -> Option<Client> {
        let rest = client_id.strip_prefix("loadgen-")?;
        let (publishes, number) = match rest.strip_prefix('p') {
            Some(number) => (true, number),
            None => (false, rest.strip_prefix('s')?),
        };
        Some(Client { publishes, number: number.parse().ok()? })
    }

    fn partner(self) -> Client {
        Client { publishes: !self.publishes, ..self }
    }
}

/// Answers CONNECT, and SUBSCRIBE for a subscriber; from then on the bytes are none of our business.
async fn greet(mut stream: TcpStream) -> anyhow::Result<(Client, std::net::TcpStream)> {
    stream.set_nodelay(true)?;
    let mut answer = Vec::new();
    let bytes = packet(&mut stream).await?;
    let Packet::Connect(connect) = decode(&bytes, Version::V3)? else {
        bail!("the first packet is no CONNECT")
    };
    let version = connect.version;
    let client = Client::parse(&connect.client_id).context("the client is none of the load generator's")?;
    wire::encode_connack(&mut answer, version, &ConnAck::new(false, ReasonCode::SUCCESS))?;
    stream.write_all(&answer).await?;
    if !client.publishes {
        let bytes = packet(&mut stream).await?;
        let Packet::Subscribe(subscribe) = decode(&bytes, version)? else {
            bail!("the second packet is no SUBSCRIBE")
        };
        let granted = subscribe.subscriptions.iter().map(|wanted| ReasonCode::granted(wanted.qos)).collect();
        answer.clear();
        wire::encode_suback(&mut answer, version, &SubAck::new(subscribe.packet_id, granted))?;
        stream.write_all(&answer).await?;
    }
    Ok((client, stream.into_std()?))
}

/// Reads one packet and not a byte more: what follows belongs to the partner.
async fn packet(stream: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; 2];
    stream.read_exact(&mut bytes).await?;
    loop {
        let len = bytes.len();
        match wire::bytes_needed(&bytes) {
            Some(needed) if needed > PACKET_BYTES_MAX as usize => bail!("a packet of {needed} bytes"),
            Some(needed) if needed == len => return Ok(bytes),
            Some(needed) => bytes.resize(needed, 0),
            None => bytes.push(0),
        }
        stream.read_exact(&mut bytes[len..]).await?;
    }
}

fn decode(bytes: &[u8], version: Version) -> anyhow::Result<Packet<'_>> {
    let frame = wire::split(bytes, PACKET_BYTES_MAX)?.context("a packet is cut")?;
    Ok(wire::decode(frame, version)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partners_have_the_same_number() {
        let publisher = Client::parse("loadgen-p7").unwrap();
        assert_eq!(publisher, Client { publishes: true, number: 7 });
        assert_eq!(publisher.partner(), Client::parse("loadgen-s7").unwrap());
        assert!(
            Client::parse("loadgen-x7").is_none()
                && Client::parse("p7").is_none()
                && Client::parse("").is_none()
        );
    }
}
