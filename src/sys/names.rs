//! The addresses of hosts, with all that the system knows.
//!
//! rr is a static program: what its own glibc can look up is files and DNS, and other sources that
//! nsswitch.conf names are libraries of another glibc to it. So the system's getent(1) is asked.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;

use super::run::Cmd;
use super::tools;

/// None where there is no getent; none in the list where the name is not known.
pub fn addresses(host: &str) -> Result<Option<Vec<IpAddr>>> {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = literal.parse() {
        return Ok(Some(vec![address]));
    }
    if tools::find("getent".as_ref()).is_none() {
        return Ok(None);
    }
    let output =
        Cmd::new("getent").args(["ahosts", host]).timeout(Duration::from_secs(20)).output()?;
    Ok(Some(parse_ahosts(&output.text())))
}

/// The addresses in the output of `getent ahosts`, each once, without those that have a scope.
fn parse_ahosts(text: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for address in text.lines().filter_map(|l| l.split_whitespace().next()?.parse().ok()) {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_from_getent() {
        // getent ahosts localhost, glibc 2.36
        let text = "::1             STREAM localhost\n::1             DGRAM  \n127.0.0.1       STREAM \n127.0.0.1       DGRAM  \nfe80::1%eth0 STREAM\n";
        let expected: Vec<IpAddr> = vec!["::1".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        assert_eq!(parse_ahosts(text), expected);
        assert_eq!(addresses("[::1]").unwrap().unwrap(), expected[..1]);
    }
}
