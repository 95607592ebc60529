//! Why IoT Hub does not let an identity in. Its answer is the same for every cause; what else is known decides.
//!
//! In: who came with what, what the other end's certificate and clock say, who is in besides. Out: sentences, the likeliest
//! cause first, each with what to do; then the causes that are ruled out, so that nobody looks there. Never: a secret.

use super::access::clock;

/// Clocks that differ by no more are the same: answers take time.
const SAME_CLOCK_SECS: i64 = 120;

/// Who was refused, and what it came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// With a key of its own.
    Key,
    /// With a token that somebody else signs for the gateway.
    Signer,
    /// With a certificate.
    Certificate,
    /// With the gateway's token.
    OnBehalf,
}

/// What is known when an identity is refused.
#[derive(Clone, Debug, Default)]
pub(in crate::upstream) struct Facts {
    /// This machine's clock, seconds since 1970.
    pub(in crate::upstream) now: u64,
    /// The other end's clock minus ours, in seconds; or why it is not known.
    pub(in crate::upstream) ahead_secs: Option<Result<i64, String>>,
    /// Names that the other end's certificate is for, if the hub's is not among them.
    pub(in crate::upstream) other_names: Option<String>,
    /// When it was let in last, by our clock.
    pub(in crate::upstream) let_in: Option<u64>,
    /// The gateway itself is in at the moment.
    pub(in crate::upstream) is_gateway_in: bool,
}

/// A case to explain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case<'a> {
    pub(super) identity: &'a str,
    /// The gateway's device.
    pub(super) gateway: &'a str,
    pub(super) hub: &'a str,
    pub(super) uplink: &'a str,
    pub(super) is_own: bool,
    pub(super) way: Way,
    pub(super) token_secs: u64,
}

/// The sentences, in one text.
pub(super) fn explain(case: &Case<'_>, facts: &Facts) -> String {
    if let Some(Ok(ahead)) = &facts.ahead_secs
        && case.way != Way::Certificate
        && *ahead >= case.token_secs.cast_signed()
    {
        return format!(
            "this machine's clock is {} behind the hub's ({} here, {} there): every token is over before it arrives; set the \
             clock here, or let it be set over the network",
            span(*ahead),
            clock(facts.now),
            clock(facts.now.saturating_add_signed(*ahead))
        );
    }
    let causes = causes(case, facts);
    let mut text = String::from("the hub gives no reason; ");
    if let [only] = &causes[..] {
        text += only;
    } else {
        text += "likely causes:";
        for (number, cause) in (1..).zip(&causes) {
            text += &format!(" ({number}) {cause};");
        }
        text.pop();
    }
    let ruled_out = ruled_out(case, facts);
    if !ruled_out.is_empty() {
        text += &format!(". Not the cause: {}", ruled_out.join(", "));
    }
    text
}

fn causes(case: &Case<'_>, facts: &Facts) -> Vec<String> {
    let Case { identity, hub, uplink, .. } = *case;
    let mut causes = Vec::new();
    if let Some(names) = facts.other_names.as_ref().filter(|_| !facts.is_gateway_in) {
        causes.push(format!(
            "wrong host name: tokens and user name are for {hub}, the other end shows a certificate for {names}: if that is \
             another hub, mend uplink.{uplink}.hub or the HostName in its connection_string, or uplink.{uplink}.url"
        ));
    }
    if let Some(at) = facts.let_in {
        causes.push(format!(
            "a change there: {identity} was let in until now (last at {}), so its proof was changed, or it was disabled or \
             deleted in {hub}",
            clock(at)
        ));
    }
    if case.way == Way::OnBehalf {
        let gateway = case.gateway;
        causes.push(format!(
            "no child: {identity} does not stand below {gateway} in {hub}; make {gateway} its parent there, or give it an \
             identity of its own here (uplink.{uplink}.identity)"
        ));
    } else {
        causes.push(proof(case));
    }
    causes.push(format!(
        "unknown: there is no {identity} in {hub}; create it there, or mend its name here (upper and lower case differ)"
    ));
    causes.push(format!("disabled: {identity} is disabled in {hub}; enable it there"));
    if case.way != Way::Certificate && !facts.is_gateway_in {
        match &facts.ahead_secs {
            Some(Ok(_)) => {}
            Some(Err(problem)) => causes.push(format!(
                "a wrong clock: it says {} here, the hub's cannot be asked ({problem}); compare it with another one",
                clock(facts.now)
            )),
            None => {
                causes.push(format!("a wrong clock: it says {}; compare it with another one", clock(facts.now)));
            }
        }
    }
    causes
}

/// What it proved itself with is not what the hub has.
fn proof(case: &Case<'_>) -> String {
    let Case { identity, hub, uplink, .. } = *case;
    match case.way {
        Way::Certificate => format!(
            "wrong certificate: {hub} does not have its thumbprint, or does not know its authority, or its name is not that \
             of {identity}; give the hub what it lacks, or mend uplink.{uplink}{}.cert",
            section(case)
        ),
        Way::Signer => format!(
            "wrong key: who signs for {identity} does not have one of its two keys in {hub}; let the security daemon take the \
             identity anew"
        ),
        _ if case.is_own => format!(
            "wrong key: compare it with both keys of {identity} in {hub} (uplink.{uplink}.connection_string or \
             uplink.{uplink}.shared_access_key)"
        ),
        _ => format!(
            "wrong key: compare uplink.{uplink}{}.shared_access_key with both keys of {identity} in {hub}",
            section(case)
        ),
    }
}

fn section(case: &Case<'_>) -> String {
    if case.is_own { String::new() } else { format!(".identity.\"{}\"", case.identity) }
}

fn ruled_out(case: &Case<'_>, facts: &Facts) -> Vec<String> {
    let mut out = Vec::new();
    if facts.is_gateway_in && !case.is_own {
        out.push("clock and host name (the gateway itself is in)".to_owned());
        return out;
    }
    match facts.ahead_secs {
        Some(Ok(ahead)) if ahead.abs() <= SAME_CLOCK_SECS => {
            out.push("the clock (the other end's says the same)".to_owned());
        }
        Some(Ok(ahead)) => {
            let side = if ahead > 0 { "behind" } else { "ahead of" };
            out.push(format!("the clock, though it is {} {side} the other end's: set it", span(ahead.abs())));
        }
        _ => {}
    }
    if facts.other_names.is_none() {
        out.push("the host name (the other end's certificate is for it)".to_owned());
    }
    out
}

/// A length of time as people say it.
fn span(secs: i64) -> String {
    match secs {
        ..120 => format!("{secs} s"),
        120..7_200 => format!("{} min", secs / 60),
        7_200..172_800 => format!("{} h", secs / 3_600),
        _ => format!("{} days", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn case(way: Way) -> Case<'static> {
        Case {
            identity: "gw1",
            gateway: "gw1",
            hub: "plant.azure-devices.net",
            uplink: "cloud",
            is_own: true,
            way,
            token_secs: 3_600,
        }
    }

    fn facts(ahead: i64) -> Facts {
        Facts { now: NOW, ahead_secs: Some(Ok(ahead)), ..Facts::default() }
    }

    #[track_caller]
    fn check(text: &str, words: &[&str], not: &[&str]) {
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
        for word in not {
            assert!(!text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn a_clock_that_makes_every_token_old_is_the_only_cause() {
        let text = explain(&case(Way::Key), &facts(100_000));
        check(
            &text,
            &["27 h behind", "2027-01-15 08:00:00 UTC here", "set the clock"],
            &["wrong key", "(1)"],
        );
        let text = explain(&case(Way::Certificate), &facts(100_000));
        check(&text, &["wrong certificate", "though it is 27 h behind"], &["token"]);
    }

    #[test]
    fn with_a_right_clock_and_host_key_device_and_state_are_left() {
        let text = explain(&case(Way::Key), &facts(3));
        check(
            &text,
            &["(1) wrong key", "(2) unknown", "(3) disabled", "Not the cause: the clock", "the host name"],
            &["(4)", "wrong host name"],
        );
    }

    #[test]
    fn another_host_comes_first() {
        let facts = Facts { other_names: Some("other.example".into()), ..facts(0) };
        check(
            &explain(&case(Way::Key), &facts),
            &["(1) wrong host name", "certificate for other.example", "uplink.cloud.hub"],
            &["the host name (the"],
        );
    }

    #[test]
    fn whoever_was_in_before_was_changed_there() {
        let facts = Facts { let_in: Some(NOW - 60), ..facts(0) };
        check(&explain(&case(Way::Key), &facts), &["(1) a change there", "2027-01-15 07:59:00 UTC"], &[]);
    }

    #[test]
    fn a_child_of_a_gateway_that_is_in_has_causes_of_its_own() {
        let facts = Facts { now: NOW, is_gateway_in: true, ..Facts::default() };
        let child = Case { identity: "d7", is_own: false, ..case(Way::OnBehalf) };
        check(
            &explain(&child, &facts),
            &["(1) no child", "uplink.cloud.identity", "clock and host name (the gateway itself is in)"],
            &["wrong clock", "wrong key"],
        );
        let child = Case { identity: "gw1/filter", way: Way::Key, ..child };
        check(&explain(&child, &facts), &["uplink.cloud.identity.\"gw1/filter\".shared_access_key"], &[]);
    }

    #[test]
    fn a_clock_that_cannot_be_compared_is_shown() {
        let facts = Facts { ahead_secs: Some(Err("port 443 is closed".into())), ..facts(0) };
        let text = explain(&case(Way::Signer), &facts);
        check(
            &text,
            &["(4) a wrong clock", "2027-01-15 08:00:00 UTC", "port 443 is closed", "security daemon"],
            &[],
        );
    }
}
