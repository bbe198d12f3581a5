//! What goes wrong between rr and a server, and what comes of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rr::config::{Login, TargetOptions};
use rr::store::{Access, Store, StoreError};

use crate::node::{Node, said};
use crate::proxy::{Fault, Proxy};
use crate::servers::{self, Authority, BUCKET, NGINX_DAV, NGINX_PLAIN, Server};
use crate::{loopback, noise, open, s3_options};

const BUSY: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
const SLOW_DOWN: &str = "HTTP/1.1 503 Slow Down\r\nContent-Length: 84\r\n\r\n<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
const FULL: &str = "HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 0\r\n\r\n";
const TOO_BIG: &str =
    "HTTP/1.1 413 Request Entity Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const ELSEWHERE: &str =
    "HTTP/1.1 301 Moved Permanently\r\nLocation: https://other/\r\nContent-Length: 0\r\n\r\n";
const WHOLE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
const ENDLESS: &str = "HTTP/1.1 200 OK\r\n\r\nabc";

fn patient_for(seconds: u64) -> TargetOptions {
    TargetOptions { patience_seconds: seconds, ..TargetOptions::default() }
}

struct Desk {
    proxy: Proxy,
    store: Arc<dyn Store>,
    pack: Vec<u8>,
    _server: Server,
    _dir: tempfile::TempDir,
}

/// A store behind a proxy, with an object in it.
fn desk(patience_seconds: u64) -> Desk {
    let dir = tempfile::tempdir().unwrap();
    let (port, listen) = loopback();
    let server = servers::nginx(dir.path(), port, &listen, NGINX_DAV);
    let proxy = Proxy::start(port);
    let store = open(&proxy.url(), Access::Write, &patient_for(patience_seconds)).unwrap();
    let pack = noise(4 << 20);
    store.put("packs/a", &pack).unwrap();
    proxy.count("");
    Desk { proxy, store, pack, _server: server, _dir: dir }
}

#[test]
fn a_read_that_breaks_off_goes_on_where_it_was() {
    if servers::lacks("a_read_that_breaks_off_goes_on_where_it_was", &["nginx"]) {
        return;
    }
    let Desk { proxy, store, pack, .. } = &desk(5);
    // Each try brings an eighth. Were it begun anew each time, it would never end; and were what
    // comes not counted as life, the server would be given up.
    proxy.fail("GET", 8, Fault::Drop(512 << 10));
    assert!(store.get_range("packs/a", 3, (4 << 20) - 3).unwrap() == pack[3..]);
    assert_eq!(proxy.count("GET"), 8);
    proxy.fail("GET", 8, Fault::Drop(512 << 10));
    assert!(super::read_range(&**store, 3, (4 << 20) - 3).unwrap() == pack[3..]);
    assert_eq!(proxy.count("GET"), 8);
    proxy.fail("GET", 3, Fault::Drop(1 << 20));
    assert!(store.get("packs/a").unwrap() == *pack);
    assert_eq!(proxy.count("GET"), 4);
    proxy.fail("GET", 2, Fault::Drop(0));
    assert_eq!(store.get("packs/a").unwrap(), *pack);
    assert_eq!(proxy.count("GET"), 3);
}

/// A connection for each would cost a handshake each, and never get up to speed.
#[test]
fn ranges_come_by_one_connection() {
    if servers::lacks("ranges_come_by_one_connection", &["nginx"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (port, listen) = loopback();
    let server = servers::nginx(dir.path(), port, &listen, NGINX_DAV);
    let store = open(&server.url(), Access::Write, &patient_for(5)).unwrap();
    let pack = noise(4 << 20);
    store.put("packs/a", &pack).unwrap();
    for part in 0..16 {
        let at = part << 18;
        assert!(store.get_range("packs/a", at as u64, 1 << 18).unwrap() == pack[at..][..1 << 18]);
    }
    let read = || std::fs::read_to_string(dir.path().join("access.log")).unwrap();
    let is_range = |line: &&str| line.ends_with(" GET 206");
    // nginx logs a request when it has been answered.
    let end = Instant::now() + Duration::from_secs(10);
    while read().lines().filter(is_range).count() < 16 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    let log = read();
    let ranges: Vec<_> = log.lines().filter(is_range).collect();
    assert_eq!(ranges.len(), 16, "{log}");
    assert!(ranges.iter().all(|line| *line == ranges[0]), "{log}");
}

#[test]
fn an_answer_of_another_length_is_no_answer() {
    if servers::lacks("an_answer_of_another_length_is_no_answer", &["nginx"]) {
        return;
    }
    let Desk { proxy, store, pack, .. } = &desk(3);
    let head = |from: &str, to: &str| Fault::Head(from.to_owned(), to.to_owned());
    // Too short, too long, and about other bytes than were asked for.
    for (from, to) in [
        ("Content-Length: 100", "Content-Length: 50"),
        ("Content-Length: 100", "Content-Length: 200"),
        ("bytes 10-109/", "bytes 11-110/"),
    ] {
        proxy.fail("GET", 1, head(from, to));
        assert_eq!(store.get_range("packs/a", 10, 100).unwrap(), pack[10..110], "{from} -> {to}");
        assert_eq!(proxy.count("GET"), 2, "{from} -> {to}");
    }
    // One that says so each time is given up.
    proxy.fail("GET", 99, head("Content-Length: 100", "Content-Length: 50"));
    let error = store.get_range("packs/a", 10, 100).unwrap_err();
    assert!(matches!(error, StoreError::Transient { .. }), "{error:?}");
    proxy.count("");
    // An object that is shorter than it should be is told as that.
    proxy.fail("GET", 1, head("bytes 10-109/4194304", "bytes 10-59/60"));
    let text = store.get_range("packs/a", 10, 100).unwrap_err().to_string();
    assert!(text.contains("packs/a is cut off") && text.contains("it has 60 bytes"), "{text}");
    // Where nothing tells the end from a broken connection, nothing is believed.
    proxy.fail("GET", 1, Fault::Instead(ENDLESS));
    let text = store.get("packs/a").unwrap_err().to_string();
    assert!(text.contains("does not say where packs/a ends"), "{text}");
    proxy.fail("GET", 1, Fault::Instead(WHOLE));
    let text = store.get_range("packs/a", 0, 3).unwrap_err().to_string();
    assert!(text.contains("Range"), "{text}");
}

#[test]
fn a_busy_server_is_asked_again_and_one_that_stays_so_is_given_up() {
    if servers::lacks("a_busy_server_is_asked_again", &["nginx"]) {
        return;
    }
    let Desk { proxy, store, pack, _server, .. } = &mut desk(3);
    for fault in [BUSY, SLOW_DOWN] {
        for method in ["GET", "PUT", "HEAD", "DELETE", "PROPFIND"] {
            proxy.fail(method, 3, Fault::Instead(fault));
        }
        store.put("packs/b", b"b").unwrap();
        assert_eq!(store.get("packs/b").unwrap(), b"b");
        assert_eq!(store.size_bytes("packs/b").unwrap(), 1);
        assert_eq!(store.list("packs/").unwrap().len(), 2);
        store.delete("packs/b").unwrap();
        assert_eq!(proxy.count(""), 20);
    }
    // Uploads that break: the next try sends all of it.
    proxy.fail("PUT", 2, Fault::DropUpload(1 << 20));
    store.put("packs/c", pack).unwrap();
    assert!(store.get("packs/c").unwrap() == *pack);
    assert_eq!(proxy.count("PUT"), 3);
    proxy.fail("PUT", 99, Fault::Instead(SLOW_DOWN));
    let error = store.put("packs/d", b"d").unwrap_err();
    assert!(matches!(error, StoreError::Transient { .. }), "{error:?}");
    assert!(error.to_string().contains("patience_seconds"), "{error}");
    proxy.count("");
    _server.kill();
    let error = store.get("packs/a").unwrap_err();
    assert!(matches!(error, StoreError::Transient { .. }), "{error:?}");
    let error = open(&proxy.url(), Access::Read, &patient_for(2)).unwrap_err();
    assert!(format!("{error:#}").contains("is the server up"), "{error:#}");
    let error = open("http://rr-no-such-host.invalid", Access::Read, &patient_for(2)).unwrap_err();
    assert!(format!("{error:#}").contains("its name can't be resolved"), "{error:#}");
}

#[test]
fn a_server_that_says_when_is_asked_then() {
    if servers::lacks("a_server_that_says_when_is_asked_then", &["nginx"]) {
        return;
    }
    const SOON: &str = "HTTP/1.1 503 Busy\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n";
    const TOMORROW: &str =
        "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 86400\r\nContent-Length: 0\r\n\r\n";
    let Desk { proxy, store, .. } = &desk(20);
    for (answer, least, most) in [(SOON, 2, 10), (TOMORROW, 0, 10)] {
        proxy.fail("GET", 1, Fault::Instead(answer));
        let started = Instant::now();
        store.get("packs/a").unwrap();
        let waited = started.elapsed();
        assert_eq!(proxy.count("GET"), 2);
        assert!(waited >= Duration::from_secs(least), "{waited:?}");
        assert!(waited < Duration::from_secs(most), "{waited:?}");
    }
}

#[test]
fn a_server_without_tls_and_a_proxy_that_is_away_are_named() {
    if servers::lacks("a_server_without_tls_and_a_proxy_that_is_away_are_named", &["nginx"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (port, listen) = loopback();
    let _server = servers::nginx(dir.path(), port, &listen, NGINX_DAV);
    // It answers in HTTP; the other closes the connection.
    let closes = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = closes.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut client in closes.incoming().map_while(Result::ok) {
            let _ = std::io::Read::read(&mut client, &mut [0; 4096]);
        }
    });
    for port in [port, closed] {
        let url = format!("https://127.0.0.1:{port}/x");
        let error = format!("{:#}", open(&url, Access::Read, &patient_for(2)).unwrap_err());
        assert!(error.contains("\nhint: does it speak TLS on that port?"), "{error}");
    }
    let lines = "target = \"http://backups.invalid/x\"\n[target_options]\npatience_seconds = 2\n";
    let list = Node::at(dir.path(), lines, "node001").rr(&["list"]);
    let nowhere = format!("http://rr:sesame@127.0.0.1:{}", servers::free_port());
    let with = |more: &str| {
        said(&list.clone().env("http_proxy", &nowhere).env("no_proxy", more).output().unwrap())
    };
    let error = with("other.invalid");
    assert!(error.contains(" (by the proxy 127.0.0.1:"), "{error}");
    assert!(!error.contains("sesame"), "{error}");
    let error = with("backups.invalid");
    assert!(error.contains("its name can't be resolved;"), "{error}");
}

#[test]
fn a_redirection_of_s3_is_told_without_its_signature() {
    let proxy = Proxy::start(1);
    const REDIRECT: &str = "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://other/work001/node001/latest.json?X-Amz-Expires=900&X-Amz-Signature=5e5a3e\r\nContent-Length: 0\r\n\r\n";
    proxy.fail("GET", 1, Fault::Instead(REDIRECT));
    let url = format!("s3://{BUCKET}");
    let error = open(&url, Access::Read, &s3_options(proxy.url())).unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.contains("redirects to http://other/work001/node001/latest.json\nhint: "),
        "{text}"
    );
    assert!(text.contains("target_options.region") && !text.contains("X-Amz"), "{text}");
}

#[test]
fn refusals_are_told_at_once_with_what_to_do() {
    if servers::lacks("refusals_are_told_at_once_with_what_to_do", &["nginx"]) {
        return;
    }
    let Desk { proxy, store, pack, .. } = &desk(60);
    for (answer, expected) in [
        (FULL, "is full"),
        (TOO_BIG, "client_max_body_size"),
        (ELSEWHERE, "redirects to https://other/"),
    ] {
        proxy.fail("PUT", 1, Fault::Instead(answer));
        // Answered before it is sent: the connection breaks under who does not ask first.
        let text = store.put("packs/b", pack).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
        assert_eq!(proxy.count("PUT"), 1, "{expected}");
    }
}

const FORBIDDEN: &str = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";

#[test]
fn a_node_that_may_not_be_looked_into_hides_no_other() {
    if servers::lacks("a_node_that_may_not_be_looked_into_hides_no_other", &["nginx"]) {
        return;
    }
    let Desk { proxy, _dir, .. } = &desk(60);
    let lines = format!("target = \"{}\"\n", proxy.url());
    let nodes = ["node002", "node003", "node004"].map(|name| Node::at(_dir.path(), &lines, name));
    for node in &nodes {
        node.backed_up();
    }
    proxy.fail("PROPFIND /node002/", 99, Fault::Instead(FORBIDDEN));
    for forbidden in ["GET /node002/", "GET /node003/"] {
        proxy.fail(forbidden, 99, Fault::Instead(FORBIDDEN));
    }
    let all = nodes[0].rr(&["list", "--all"]).output().unwrap();
    let text = said(&all);
    assert_eq!(all.status.code(), Some(1), "{text}");
    for (node, problem) in
        [("node002", "403"), ("node003", "403"), ("node004", "no layout to recover it from")]
    {
        let line = all.text().lines().find(|line| line.starts_with(node)).map(str::to_owned);
        assert!(line.is_some_and(|line| line.contains(problem)), "{text}");
    }
}

/// All that is answered is told beforehand.
#[test]
fn a_node_of_s3_that_may_not_be_looked_into_hides_no_other() {
    let proxy = Proxy::start(1);
    let answer = |word: &'static str, status: &str, text: &str| {
        let length = text.len();
        let text = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{text}");
        proxy.fail(word, 1, Fault::Instead(text.leak()));
    };
    let list = |what: &str| {
        format!(
            "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{what}</ListBucketResult>"
        )
    };
    let denied = "<Error><Code>AccessDenied</Code><Message>No.</Message></Error>";
    let prefix = |node: &str| format!("<CommonPrefixes><Prefix>{node}/</Prefix></CommonPrefixes>");
    answer("delimiter", "200 OK", &list(&[prefix("node001"), prefix("node002")].concat()));
    answer("prefix=node001", "403 Forbidden", denied);
    answer("/node001/latest.json", "403 Forbidden", denied);
    let found = "<Contents><Key>node002/generations/1/x</Key><LastModified>2026-11-21T10:00:00.000Z</LastModified><ETag>e</ETag><Size>1</Size><StorageClass>STANDARD</StorageClass></Contents>";
    answer("prefix=node002", "200 OK", &list(found));
    answer("/node002/latest.json", "200 OK", "{}");
    let url = format!("s3://{BUCKET}").parse().unwrap();
    let all = rr::store::open_all(&url, &s3_options(proxy.url())).unwrap();
    let [(first, Err(error)), (second, Ok(_))] = &all[..] else { panic!("{all:?}") };
    assert_eq!([first, second], ["node001", "node002"]);
    assert!(format!("{error:#}").contains("AccessDenied: No."), "{error:#}");
}

#[test]
fn a_cache_that_answers_with_what_was_is_found_out() {
    if servers::lacks("a_cache_that_answers_with_what_was_is_found_out", &["nginx"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (port, listen) = loopback();
    // It can't list: latest.json is all that tells what is there.
    let _server = servers::nginx(dir.path(), port, &listen, NGINX_PLAIN);
    let proxy = Proxy::start(port);
    open(&proxy.url(), Access::Write, &patient_for(5)).unwrap();
    assert!(proxy.saw("cache-control: no-cache"));
    let old = || Fault::Instead("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nrr\n");
    // The first one is what there was. A cache that soon forgets is waited for.
    proxy.fail("GET /node001/try.", 3, old());
    open(&proxy.url(), Access::Write, &patient_for(5)).unwrap();
    proxy.fail("GET /node001/try.", 50, old());
    let error = open(&proxy.url(), Access::Write, &patient_for(5)).unwrap_err();
    assert!(format!("{error:#}").contains("is a cache between"), "{error:#}");
    // Who only reads harms nothing.
    open(&proxy.url(), Access::Read, &patient_for(5)).unwrap();
}

#[test]
fn a_server_that_tells_its_room_is_not_filled_up() {
    if servers::lacks("a_server_that_tells_its_room_is_not_filled_up", &["nginx"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (port, listen) = loopback();
    let _server = servers::nginx(dir.path(), port, &listen, NGINX_DAV);
    let proxy = Proxy::start(port);
    // nginx does not know quotas: asked for them in the words of RFC 4331, it is answered for.
    let body = "<?xml version=\"1.0\"?><d:multistatus xmlns:d=\"DAV:\"><d:response><d:href>/node001/</d:href><d:propstat><d:prop><d:quota-available-bytes>20971520</d:quota-available-bytes></d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response></d:multistatus>";
    let told = format!("HTTP/1.1 207 Multi-Status\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    proxy.fail("PROPFIND /node001/", 99, Fault::Instead(told.leak()));
    let store = open(&proxy.url(), Access::Write, &patient_for(5)).unwrap();
    assert_eq!(store.free_bytes().unwrap(), Some(20 << 20));
    let error = store.put("packs/a", &noise(5 << 20)).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(error.to_string().contains("20 MiB are free"), "{error}");
    // What is left is for these.
    store.put("generations/20261121T013500Z/manifest.json", &noise(1 << 20)).unwrap();
}

#[test]
fn a_slow_server_is_not_a_dead_one() {
    if servers::lacks("a_slow_server_is_not_a_dead_one", &["nginx"]) {
        return;
    }
    let Desk { proxy, store, pack, .. } = &desk(2);
    // Twice as long as a dead one is waited for.
    proxy.fail("GET", 1, Fault::Slow(50 << 10));
    assert!(store.get_range("packs/a", 0, 200 << 10).unwrap() == pack[..200 << 10]);
    assert_eq!(proxy.count("GET"), 1);
}

/// Of one that answers as S3 does.
pub fn of_s3(server: &Server) {
    let proxy = Proxy::start(server.port);
    let options = TargetOptions { patience_seconds: 5, ..s3_options(proxy.url()) };
    let url = format!("s3://{BUCKET}/bad-days");
    let store = open(&url, Access::Write, &options).unwrap();
    proxy.count("");
    // The object was put and the answer lost: the next try finds it there, and it is ours.
    proxy.fail("PUT", 1, Fault::LoseAnswer);
    store.put_new("generations/x", b"mine").unwrap();
    assert_eq!(proxy.count("PUT"), 2);
    proxy.fail("PUT", 1, Fault::LoseAnswer);
    let taken = store.put_new("generations/x", b"another's").unwrap_err();
    assert!(matches!(taken, StoreError::Exists { .. }), "{taken:?}");
    assert_eq!(store.get("generations/x").unwrap(), b"mine");

    // A page of a list that breaks off.
    proxy.fail("list-type", 1, Fault::Drop(100));
    assert_eq!(store.list("generations/").unwrap().len(), 1);
    proxy.fail("PUT", 2, Fault::Instead(SLOW_DOWN));
    store.put("packs/a", b"a").unwrap();

    for (answer, expected) in [
        ("SignatureDoesNotMatch", "the keys are those of target_options.login"),
        ("InvalidAccessKeyId", "the keys are those of target_options.login"),
        ("AccessDenied", "s3:PutObject"),
        ("AuthorizationHeaderMalformed", "target_options.region"),
    ] {
        let text = format!("<Error><Code>{answer}</Code><Message>No.</Message></Error>");
        let text =
            format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        proxy.fail("PUT", 1, Fault::Instead(text.leak()));
        let error = store.put("packs/b", b"b").unwrap_err().to_string();
        assert!(error.contains(answer) && error.contains(expected), "{error}");
        assert!(!error.contains("sesame") && !error.contains("Signature="), "{error}");
    }
    // A clock that is wrong is put right by the server's.
    let skewed = "<Error><Code>RequestTimeTooSkewed</Code><Message>No.</Message></Error>";
    let skewed = format!(
        "HTTP/1.1 403 Forbidden\r\nDate: Fri, 21 Nov 2036 10:00:00 GMT\r\nContent-Length: {}\r\n\r\n{skewed}",
        skewed.len()
    );
    proxy.count("");
    proxy.fail("PUT", 1, Fault::Instead(skewed.leak()));
    store.put("packs/c", b"c").unwrap();
    assert_eq!(proxy.count("X-Amz-Date=20361121T"), 1);
}

#[test]
fn a_wrong_clock_is_put_right_by_the_servers() {
    // All that is answered is told beforehand.
    let proxy = Proxy::start(1);
    let options = TargetOptions { patience_seconds: 5, ..s3_options(proxy.url()) };
    let open = || open(&format!("s3://{BUCKET}"), Access::Read, &options);
    let answer = |status: &str, date: &str, text: String| {
        let length = text.len();
        let text =
            format!("HTTP/1.1 {status}\r\nDate: {date}\r\nContent-Length: {length}\r\n\r\n{text}");
        proxy.fail("GET", 1, Fault::Instead(text.leak()));
    };
    let refuse = |date: &str, message: &str| {
        let (code, end) = ("AccessDenied", "</Message></Error>");
        let text = format!("<Error><Code>{code}</Code><Message>{message}{end}");
        answer("403 Forbidden", date, text);
    };
    // Amazon's, Minio's and versitygw's words for a URL that is signed for another time.
    for (date, message, signed) in [
        ("Fri, 21 Nov 2036 10:00:00 GMT", "Request has expired", "X-Amz-Date=20361121T"),
        ("Sat, 21 Nov 2015 10:00:00 GMT", "Request is not valid yet", "X-Amz-Date=20151121T"),
        ("Sat, 21 Nov 2015 10:00:00 GMT", "Request is not yet valid", "X-Amz-Date=20151121T"),
    ] {
        refuse(date, message);
        answer("404 Not Found", date, "<Error><Code>NoSuchKey</Code></Error>".to_owned());
        open().unwrap();
        assert_eq!(proxy.count(signed), 1, "{message}");
        // Once it goes by that clock, no means no.
        refuse(date, message);
        refuse(date, message);
        let error = format!("{:#}", open().unwrap_err());
        assert!(error.contains(message) && error.contains("s3:GetObject"), "{error}");
        assert_eq!(proxy.count("GET"), 2);
    }
    // The clock is right, and access is denied.
    refuse(&jiff::fmt::rfc2822::to_string(&jiff::Zoned::now()).unwrap(), "No.");
    assert!(format!("{:#}", open().unwrap_err()).contains("AccessDenied: No."));
    assert_eq!(proxy.count("GET"), 1);
}

#[test]
fn a_certificate_must_be_valid_and_so_must_ours() {
    if servers::lacks("a_certificate_must_be_valid_and_so_must_ours", &["nginx", "openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let authority = Authority::make(dir);
    let (client_cert, client_key) = authority.sign("client", 30);
    authority.sign("good", 30);
    authority.sign("expired", 0);
    // It was valid at the very second in which it was made.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let serve = |certificate: &str, more: &str| {
        let (port, listen) = loopback();
        let at = dir.join(format!("{certificate}-{port}"));
        std::fs::create_dir(&at).unwrap();
        let path = |end: &str| dir.join(format!("{certificate}.{end}")).display().to_string();
        let (pem, key, ca) = (path("pem"), path("key"), dir.join("ca.pem"));
        let lines = format!(
            "ssl_certificate {pem}; ssl_certificate_key {key}; ssl_client_certificate {}; {more} {NGINX_DAV}",
            ca.display()
        );
        servers::nginx(&at, port, &format!("{listen} ssl"), &lines)
    };
    let trusting = TargetOptions { ca_file: Some(dir.join("ca.pem")), ..patient_for(60) };
    let refused = |url: &str, options: &TargetOptions| {
        let error = open(url, Access::Write, options).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("\nhint: "), "{text}");
        text
    };

    let server = serve("good", "ssl_verify_client off;");
    let url = format!("https://localhost:{}/x", server.port);
    open(&url, Access::Write, &trusting).unwrap().put("a", b"a").unwrap();
    assert_eq!(std::fs::read(server.files.join("x/node001/a")).unwrap(), b"a");
    let text = refused(&url, &patient_for(60));
    assert!(text.contains("not valid") && text.contains("target_options.ca_file"), "{text}");
    let text = refused(&url.replace("localhost", "127.0.0.1"), &trusting);
    assert!(text.contains("use the name in the target's URL"), "{text}");

    let server = serve("expired", "ssl_verify_client off;");
    let text = refused(&format!("https://localhost:{}/x", server.port), &trusting);
    assert!(text.contains("not valid") && text.contains("clock"), "{text}");

    let server = serve("good", "ssl_verify_client on;");
    let url = format!("https://localhost:{}/x", server.port);
    let text = refused(&url, &trusting);
    assert!(text.contains("certificate"), "{text}");
    let login = Login {
        client_cert_file: Some(client_cert),
        client_key_file: Some(client_key),
        ..Login::default()
    };
    let known = TargetOptions { login, ..trusting };
    open(&url, Access::Write, &known).unwrap().put("a", b"a").unwrap();
}
