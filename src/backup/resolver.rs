//! Whether the rescue system can look up the target's name. A rehearsal can't show it: it asks the name
//! servers that the node asks, and one on the node itself (unbound, dnsmasq, BIND) does not run there.

use std::net::IpAddr;

use crate::config::{Config, Network, TargetOptions, TargetUrl};
use crate::layout::Net;

/// What is wrong where it can't.
pub(super) fn problem(config: &Config, url: &TargetUrl, net: &Net, hosts: &str) -> Option<String> {
    let host = host(url, &config.target_options)?;
    let by_dhcp = config.rescue.network == Network::Dhcp
        || net.nic.iter().any(|nic| nic.dhcp)
        || net.link.iter().any(|link| link.dhcp);
    let is_here = |server: &String| server.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    // Without any, the resolver asks this machine as well.
    let has_server = net.dns.iter().any(|server| !is_here(server));
    // The admin has seen to its network or to its target.
    let words = ["ip=", "rr.net=", "rr.target="];
    let is_given = |word: &str| words.iter().any(|start| word.starts_with(start));
    let is_set = config.rescue.cmdline.split_whitespace().any(is_given);
    if by_dhcp || has_server || is_set || host.parse::<IpAddr>().is_ok() || knows(hosts, &host) {
        return None;
    }
    Some(format!(
        "the rescue system can't look up {host}: the only name server of this node is on the node itself, and does not run there\nhint: name the target by its address, or put {host} into /etc/hosts, which comes along"
    ))
}

/// The server, where the target is on one.
fn host(url: &TargetUrl, options: &TargetOptions) -> Option<String> {
    let url = match url {
        TargetUrl::S3 { .. } => {
            options.endpoint.clone().unwrap_or_else(|| "https://s3.amazonaws.com".to_owned())
        }
        url if url.is_on_network() => url.to_string(),
        _ => return None,
    };
    let authority = url.split_once("://").map_or(&*url, |(_, rest)| rest).split('/').next()?;
    let host = authority.rsplit('@').next()?;
    let host = match host.strip_prefix('[') {
        Some(six) => six.split(']').next()?,
        None => host.split(':').next()?,
    };
    (!host.is_empty()).then(|| host.to_owned())
}

/// Whether hosts(5) has the name. The rescue system's own has this one.
fn knows(hosts: &str, host: &str) -> bool {
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    let mut names = lines.flat_map(|line| line.split_whitespace().skip(1));
    host.eq_ignore_ascii_case("localhost") || names.any(|name| name.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Nic;

    type Change<'a> = &'a dyn Fn(&mut Config, &mut Net);

    #[test]
    fn a_name_that_only_the_nodes_own_server_knows_is_told() {
        let told = |target: &str, dns: &[&str], hosts: &str, change: Change<'_>| {
            let mut config = Config { target: Some(target.into()), ..Config::default() };
            let nic: Nic = toml::from_str("name = 'eth0'\nmac = '52:54:00:00:00:01'").unwrap();
            let dns = dns.iter().map(|server| (*server).to_owned()).collect();
            let mut net = Net { nic: vec![nic], dns, ..Net::default() };
            change(&mut config, &mut net);
            let url = config.target_url().unwrap();
            problem(&config, &url, &net, hosts)
        };
        let plain = |target: &str, dns: &[&str], hosts: &str| told(target, dns, hosts, &|_, _| ());
        let local = ["127.0.0.1", "::1"];
        let text = plain("nfs://store/x", &local, "10.0.0.2 store2 # store\n").unwrap();
        assert!(text.starts_with("the rescue system can't look up store: "), "{text}");
        assert!(text.contains("\nhint: name the target by its address"), "{text}");
        assert!(plain("https://store.example:8443/x", &[], "").is_some());
        assert!(plain("s3://bucket", &local, "").unwrap().contains("s3.amazonaws.com"));

        assert_eq!(plain("nfs://store/x", &["127.0.0.1", "10.0.0.1"], ""), None);
        assert_eq!(plain("nfs://store/x", &local, "10.0.0.2\tstore.example Store\n"), None);
        for target in
            ["nfs://10.0.0.2/x", "http://[fd00::1]:80/x", "http://localhost/x", "file:///x"]
        {
            assert_eq!(plain(target, &local, ""), None, "{target}");
        }
        let changes: [Change<'_>; 3] = [
            &|_, net| net.nic[0].dhcp = true,
            &|config, _| config.rescue.network = Network::Dhcp,
            &|config, _| config.rescue.cmdline = "quiet rr.net=dhcp".into(),
        ];
        for change in changes {
            assert_eq!(told("nfs://store/x", &local, "", change), None);
        }
    }
}
