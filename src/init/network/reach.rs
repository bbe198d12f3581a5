//! Whether the target can be reached.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::config::{TargetOptions, TargetUrl};
use crate::store::nfs;
use crate::sys::run::Cmd;

const PATIENCE: Duration = Duration::from_secs(5);
/// A name may have many addresses; of those that are reached the same way some are enough.
const ADDRESSES: usize = 3;

/// The URL of the server that a target is on. None where it is a disk.
pub fn server_of(target: &str, options: &TargetOptions) -> Option<String> {
    match target.parse().ok()? {
        TargetUrl::S3 { .. } => Some(options.endpoint.clone().unwrap_or_else(|| {
            let region = options.region.as_deref().unwrap_or("us-east-1");
            format!("https://s3.{region}.amazonaws.com")
        })),
        TargetUrl::Nfs { host, .. } => {
            Some(format!("nfs://{host}:{}/", nfs::ports(&options.nfs)[0]))
        }
        url => url.is_on_network().then(|| target.to_owned()),
    }
}

/// Whether the server that `url` names answers, if only by refusing: then packets go there and back.
pub fn answers(url: &str) -> bool {
    let Some((host, port)) = server(url) else { return false };
    addresses(&host).into_iter().take(ADDRESSES).any(|address| {
        match TcpStream::connect_timeout(&SocketAddr::new(address, port), PATIENCE) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        }
    })
}

/// Host and port of `scheme://[user@]host[:port]/...`.
fn server(url: &str) -> Option<(String, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let usual = match scheme {
        "nfs" => 2049,
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let authority = rest.split('/').next()?;
    let authority = authority.rsplit('@').next()?;
    let (host, port) = match authority.strip_prefix('[') {
        Some(six) => {
            let (host, after) = six.split_once(']')?;
            (host, after.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = port.map_or(Some(usual), |port| port.parse().ok())?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

fn addresses(host: &str) -> Vec<IpAddr> {
    if let Ok(address) = host.parse() {
        return vec![address];
    }
    // This program is linked statically and can't look names up by itself.
    let found = Cmd::new("getent").args(["ahosts", host]).timeout(PATIENCE * 2).output();
    let text = found.map(|output| output.text()).unwrap_or_default();
    text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_read_from_the_url() {
        let said = |url: &str| server(url).map(|(host, port)| format!("{host} {port}"));
        assert_eq!(said("nfs://172.16.1.5/work001").as_deref(), Some("172.16.1.5 2049"));
        assert_eq!(said("https://u:p@store:8443/x").as_deref(), Some("store 8443"));
        assert_eq!(said("nfs://[fd00::1]/x").as_deref(), Some("fd00::1 2049"));
        assert_eq!(said("file:///x"), None);
    }

    #[test]
    fn the_server_of_a_bucket_is_its_endpoint() {
        let mut options = TargetOptions::default();
        let of = |target: &str, options: &TargetOptions| server_of(target, options);
        let aws = of("s3://backups/nodes", &options);
        assert_eq!(aws.as_deref(), Some("https://s3.us-east-1.amazonaws.com"));
        options.endpoint = Some("http://172.16.1.5:9000".to_owned());
        let own = of("s3://backups/nodes", &options);
        assert_eq!(own.as_deref(), Some("http://172.16.1.5:9000"));
        options.nfs = "vers=4.2,port=12049".to_owned();
        let nfs = of("nfs://[fd00::1]/work001", &options);
        assert_eq!(nfs.as_deref(), Some("nfs://[fd00::1]:12049/"));
        assert_eq!((of("file:///x", &options), of("usb://RR-BACKUP", &options)), (None, None));
    }

    #[test]
    fn a_server_that_refuses_is_reached() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(answers(&format!("http://127.0.0.1:{port}/")));
        drop(listener);
        assert!(answers(&format!("http://127.0.0.1:{port}/")));
        assert!(!answers("file:///x"));
    }
}
