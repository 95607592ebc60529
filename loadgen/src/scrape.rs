//! One number from a page of Prometheus text, fetched with the least HTTP that works.
//!
//! In:  an address and the name of a metric. Out: its value, summed over labels. Never: TLS, redirects, other paths.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a page may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// A page that is longer is cut.
const PAGE_BYTES_MAX: u64 = 4 << 20;

/// The value of a metric at `http://address/metrics`; `None` if it cannot be had.
pub(crate) fn value(address: SocketAddr, name: &str) -> Option<f64> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut page = String::new();
    stream.take(PAGE_BYTES_MAX).read_to_string(&mut page).ok()?;
    find(&page, name)
}

fn find(page: &str, name: &str) -> Option<f64> {
    let values = page.lines().filter_map(|line| {
        let (metric, value) = line.rsplit_once(' ')?;
        (metric.split('{').next() == Some(name)).then(|| value.parse::<f64>().ok()).flatten()
    });
    values.reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name_and_summed_over_labels() {
        let page = "# TYPE syncs counter\nsyncs_total 7\nsyncs{shard=\"0\"} 3\nsyncs{shard=\"1\"} 4\n";
        assert_eq!((find(page, "syncs"), find(page, "syncs_total")), (Some(7.0), Some(7.0)));
        assert_eq!(find(page, "sync"), None);
    }
}
