//! Targets on object servers: nginx with WebDAV, nginx with nothing but PUT and DELETE, Apache and
//! two for S3, whole and, through a proxy that fails on purpose, on bad days.

mod bad_days;
mod crowd;
mod keys;
mod login;
#[path = "../node/mod.rs"]
mod node;
mod outage;
mod proxy;
mod rehearsal;
#[path = "../servers/mod.rs"]
mod servers;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rr::config::{Login, TargetOptions, TargetUrl};
use rr::store::{self, Access, Store, StoreError, lock};
use rr::sys::run::{Cmd, Output};
use rr::sys::secret::Secret;
use rr::ui::{Style, Ui};

use servers::{
    ACCESS_KEY, BUCKET, NGINX_ASKS, NGINX_DAV, NGINX_PLAIN, PASSWORD, SECRET_KEY, Server, USER,
};

/// A tree with more than one pack's worth of what can't be compressed.
const NOISE_MIB: usize = 34;

pub fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

pub fn open(url: &str, access: Access, options: &TargetOptions) -> anyhow::Result<Arc<dyn Store>> {
    Ok(store::open(&url.parse::<TargetUrl>()?, "node001", access, options)?.into())
}

pub fn login(access: &str, secret: &str) -> Login {
    let secret = Some(Secret::new(secret).unwrap());
    Login { access_key: Some(access.into()), secret_key: secret, ..Login::default() }
}

pub fn s3_options(endpoint: String) -> TargetOptions {
    let login = login(ACCESS_KEY, SECRET_KEY);
    TargetOptions { endpoint: Some(endpoint), login, ..TargetOptions::default() }
}

fn names(store: &dyn Store, prefix: &str) -> Vec<String> {
    store.list(prefix).unwrap().into_iter().map(|o| o.name).collect()
}

/// Of `packs/a`, which comes in pieces.
fn read_range(store: &dyn Store, offset: u64, len: u64) -> Result<Vec<u8>, StoreError> {
    let (mut bytes, mut pieces) = (Vec::new(), 0);
    store.read_range("packs/a", offset, len, &mut |piece| {
        bytes.extend_from_slice(piece);
        pieces += 1;
    })?;
    assert!(pieces >= len >> 20, "{pieces} pieces");
    Ok(bytes)
}

fn objects_come_and_go(url: &str, options: &TargetOptions) {
    let reading = open(url, Access::Read, options).unwrap();
    assert!(names(&*reading, "generations/").is_empty(), "a tree that is not there yet is empty");
    // Nor is it made for who only changes one.
    let missing = open(url, Access::Change, options).unwrap_err();
    assert!(
        missing.chain().any(|e| matches!(e.downcast_ref(), Some(StoreError::NotFound { .. }))),
        "{missing:#}"
    );
    let store = open(url, Access::Write, options).unwrap();
    assert_eq!(store.url(), format!("{url}/node001"));
    let pack = noise(3 << 20);
    store.put("packs/a", b"old").unwrap();
    store.put("packs/a", &pack).unwrap();
    assert_eq!(store.get("packs/a").unwrap(), pack);
    assert_eq!(store.size_bytes("packs/a").unwrap(), 3 << 20);
    assert_eq!(store.get_range("packs/a", 5, 7).unwrap(), pack[5..12]);
    assert!(store.get_range("packs/a", 5, 0).unwrap().is_empty());
    let text = store.get_range("packs/a", (3 << 20) - 1, 2).unwrap_err().to_string();
    assert!(text.contains("is cut off"), "{text}");
    assert!(read_range(&*store, 5, (3 << 20) - 5).unwrap() == pack[5..]);
    assert!(read_range(&*store, 5, 0).unwrap().is_empty());
    let text = read_range(&*store, 5, 3 << 20).unwrap_err().to_string();
    assert!(text.contains("is cut off"), "{text}");

    store.put_new("packs/b", b"b").unwrap();
    assert!(matches!(store.put_new("packs/b", b"c"), Err(StoreError::Exists { .. })));
    assert_eq!(store.get("packs/b").unwrap(), b"b");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("iso"), &pack).unwrap();
    store.put_file("rr-node001.iso", &dir.path().join("iso")).unwrap();
    assert_eq!(store.get("rr-node001.iso").unwrap(), pack);
    store.put("generations/20261121T013500Z/recipe", b"").unwrap();
    assert_eq!(store.get("generations/20261121T013500Z/recipe").unwrap(), b"");
    let all = ["generations/20261121T013500Z/recipe", "packs/a", "packs/b", "rr-node001.iso"];
    assert_eq!(names(&*store, ""), all);
    assert_eq!(names(&*store, "pa"), all[1..3]);
    assert_eq!(names(&*store, "packs/b"), all[2..3]);
    assert!(names(&*store, "packs/c").is_empty());

    for gone in ["packs/none", "none/none", "manifest.json"] {
        for error in [store.get(gone).map(drop), store.get_range(gone, 0, 1).map(drop)] {
            assert!(matches!(error, Err(StoreError::NotFound { .. })), "{error:?}");
        }
        assert!(matches!(store.size_bytes(gone), Err(StoreError::NotFound { .. })));
        store.delete(gone).unwrap();
    }
    for bad in ["../x", "a//b", "", "/a"] {
        assert!(store.put(bad, b"").is_err() && store.get(bad).is_err(), "{bad}");
    }
    let guard = lock::lock(&store, &Ui::new(Style::Plain)).unwrap();
    let other = open(url, Access::Write, options).unwrap();
    let text = format!("{:#}", lock::lock(&other, &Ui::new(Style::Plain)).unwrap_err());
    assert!(text.contains("another rr works in"), "{text}");
    drop(guard);
    for name in all {
        store.delete(name).unwrap();
    }
    assert!(names(&*store, "").is_empty(), "{:?}", names(&*store, ""));
}

/// Not on s3s-fs, which looks and then puts: two of them have it there.
fn one_of_many_has_a_name(url: &str, options: &TargetOptions) {
    let store = &*open(url, Access::Write, options).unwrap();
    let wins: Vec<u8> = std::thread::scope(|scope| {
        let put = |nr: u8| move || store.claim("packs/one", &[nr]).is_ok();
        let tries: Vec<_> = (0..8).map(|nr| (nr, scope.spawn(put(nr)))).collect();
        tries.into_iter().filter_map(|(nr, t)| t.join().unwrap().then_some(nr)).collect()
    });
    assert_eq!(wins.len(), 1, "{wins:?}");
    assert_eq!(store.get("packs/one").unwrap(), wins);
    store.delete("packs/one").unwrap();
}

/// The program itself, with a configuration.
fn rr(config: &Path, args: &[&str]) -> Output {
    let cmd = Cmd::new(env!("CARGO_BIN_EXE_rr")).arg("--config").arg(config).args(args);
    cmd.output().unwrap()
}

fn rr_ok(config: &Path, args: &[&str]) -> String {
    let output = rr(config, args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.success(), "rr {args:?}: {said}");
    assert!(!said.contains("warning"), "{said}");
    output.text() + &said
}

/// Backup, verification, restore, a second generation, and pruning, as an admin does them.
fn a_whole_journey(toml: &str, lists: bool) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (config, tree) = (dir.join("rr.toml"), dir.join("tree"));
    std::fs::write(&config, format!("node = \"node002\"\n{toml}")).unwrap();
    // Or rr warns of it.
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("noise"), noise(NOISE_MIB << 20)).unwrap();
    std::fs::write(tree.join("note"), "first\n").unwrap();
    let include = tree.to_str().unwrap();
    rr_ok(&config, &["mkbackuponly", "--include", include]);
    std::fs::write(tree.join("note"), "second\n").unwrap();
    let text = rr_ok(&config, &["mkbackuponly", "--include", include]);
    assert!(!text.contains("sesame"), "{text}");
    let list = rr_ok(&config, &["list"]);
    assert_eq!(list.lines().filter(|line| line.contains(" just /")).count(), 2, "{list}");
    let first = list.lines().nth(1).unwrap().split_whitespace().next().unwrap();
    for (generation, note) in [(first, "first\n"), ("latest", "second\n")] {
        rr_ok(&config, &["verify", generation]);
        let to = dir.join(format!("to-{generation}"));
        rr_ok(&config, &["restore", "--gen", generation, "--to", to.to_str().unwrap()]);
        let back = to.join(tree.strip_prefix("/").unwrap());
        assert_eq!(std::fs::read_to_string(back.join("note")).unwrap(), note);
        assert!(std::fs::read(back.join("noise")).unwrap() == noise(NOISE_MIB << 20));
    }
    let pruned = rr_ok(&config, &["prune", "--keep-last", "1"]);
    let gone = |line: &str| line.starts_with("delete") && line.contains(first);
    assert!(pruned.lines().any(gone), "{pruned}");
    let list = rr_ok(&config, &["list"]);
    assert!(!list.contains(first) && list.contains(" just /"), "{list}");
    rr_ok(&config, &["verify"]);
    let failing = dir.join("failing.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("node002", "node009") + "[backup]\npre = [\"false\"]\n";
    std::fs::write(&failing, text).unwrap();
    assert!(!rr(&failing, &["mkbackuponly", "--include", include]).success());
    let all = rr(&config, &["list", "--all"]);
    let (text, said) = (all.text(), String::from_utf8_lossy(&all.stderr).into_owned());
    if lists {
        // It is files only, and that is a problem of the node.
        assert!(text.contains("node002") && text.contains("no layout"), "{text}{said}");
        assert!(text.contains("node009") && text.contains("no complete backup"), "{text}{said}");
    } else {
        assert!(said.contains("has no WebDAV") && said.contains("\nhint: "), "{said}");
    }
}

/// On a server that can't list, manifests tell what is there: but not whether it still is.
fn a_lost_pack_is_not_built_upon(server: &Server) {
    let dir = tempfile::tempdir().unwrap();
    let (config, tree) = (dir.path().join("rr.toml"), dir.path().join("tree"));
    let text = format!("node = \"node003\"\ntarget = \"{}/backups\"\n", server.url());
    std::fs::write(&config, text).unwrap();
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("note"), "first\n").unwrap();
    let args = ["mkbackuponly", "--include", tree.to_str().unwrap()];
    rr_ok(&config, &args);
    let packs = std::fs::read_dir(server.files.join("backups/node003/packs")).unwrap();
    let mut packs = packs.map(|pack| pack.unwrap().path());
    let stream = packs.find(|pack| pack.to_string_lossy().ends_with(".tar.zst")).unwrap();
    std::fs::remove_file(stream).unwrap();
    let output = rr(&config, &args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.success() && said.contains("no backup builds upon it"), "{said}");
    rr_ok(&config, &["verify"]);
}

#[test]
fn nginx_with_webdav_and_a_password() {
    if servers::lacks("nginx_with_webdav_and_a_password", &["nginx"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    servers::write_users(dir.path());
    let (port, listen) = loopback();
    let location = format!("{NGINX_ASKS} {NGINX_DAV}");
    let server = servers::nginx(dir.path(), port, &listen, &location);
    let url = format!("{}/backups", server.url());
    let login = |password: &str| TargetOptions {
        login: Login {
            user: Some(USER.into()),
            password: Some(Secret::new(password).unwrap()),
            ..Login::default()
        },
        ..TargetOptions::default()
    };
    for (options, access) in [
        (login("wrong"), Access::Write),
        (login("wrong"), Access::Read),
        (TargetOptions::default(), Access::Read),
    ] {
        let text = format!("{:#}", open(&url, access, &options).unwrap_err());
        assert!(text.contains("401") && text.contains("target_options.login"), "{text}");
        assert!(!text.contains("wrong"), "{text}");
    }
    objects_come_and_go(&url, &login(PASSWORD));
    one_of_many_has_a_name(&url, &login(PASSWORD));
    a_whole_journey(
        &format!(
            "target = \"{url}\"\n[target_options.login]\nuser = \"{USER}\"\npassword = \"{PASSWORD}\"\n"
        ),
        true,
    );
    let left = |below: &str| {
        std::fs::read_dir(server.files.join("backups/node002").join(below)).unwrap().count()
    };
    assert_eq!(left("generations"), 1, "the directory of the pruned one is gone");
    assert_eq!(left(""), 4, "latest.json, machine.json, generations, packs; and no lock");
}

#[test]
fn nginx_with_plain_put() {
    if servers::lacks("nginx_with_plain_put", &["nginx"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (port, listen) = loopback();
    let server = servers::nginx(dir.path(), port, &listen, NGINX_PLAIN);
    objects_come_and_go(&server.url(), &TargetOptions::default());
    one_of_many_has_a_name(&server.url(), &TargetOptions::default());
    a_whole_journey(&format!("target = \"{}/backups\"\n", server.url()), false);
    let files = server.files.join("backups/node002");
    let manifests = walkdir::WalkDir::new(&files).into_iter().map(Result::unwrap);
    let manifests = manifests.filter(|entry| entry.file_name() == "manifest.json");
    assert_eq!(manifests.count(), 1, "what is pruned is deleted");
    a_lost_pack_is_not_built_upon(&server);

    // Without the right to write it can still be read; and what is missing is said.
    drop(server);
    let (port, listen) = loopback();
    let server = servers::nginx(dir.path(), port, &listen, "");
    let url = format!("{}/backups", server.url());
    let text = format!("{:#}", open(&url, Access::Write, &TargetOptions::default()).unwrap_err());
    assert!(text.contains("405") && text.contains("dav_methods PUT DELETE"), "{text}");
    let config = dir.path().join("rr.toml");
    std::fs::write(&config, format!("node = \"node002\"\ntarget = \"{url}\"\n")).unwrap();
    rr_ok(&config, &["verify"]);
}

#[test]
fn apache_with_webdav() {
    if servers::lacks("apache_with_webdav", &["apache2"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = servers::apache(dir.path());
    objects_come_and_go(&server.url(), &TargetOptions::default());
    one_of_many_has_a_name(&server.url(), &TargetOptions::default());
    a_whole_journey(&format!("target = \"{}/backups\"\n", server.url()), true);
}

#[test]
fn s3_on_moto() {
    if servers::lacks("s3_on_moto", &["moto_server"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = servers::moto(dir.path());
    s3_on(&server);
    keys::of_profiles_lead_to_roles(&server);
    one_of_many_has_a_name(&format!("s3://{BUCKET}"), &s3_options(server.url()));
    let error = open("s3://no-such-bucket", Access::Write, &s3_options(server.url())).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("NoSuchBucket") && text.contains("\nhint: create the bucket"), "{text}");
}

#[test]
fn s3_on_a_bucket_that_keeps_versions() {
    if servers::lacks("s3_on_a_bucket_that_keeps_versions", &["moto_server"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = servers::moto(dir.path());
    let (config, tree) = (dir.path().join("rr.toml"), dir.path().join("tree"));
    let text = format!(
        "node = \"node002\"\ntarget = \"s3://{BUCKET}/nodes\"\n[target_options]\nendpoint = \"{}\"\n\
         [target_options.login]\naccess_key = \"{ACCESS_KEY}\"\nsecret_key = \"{SECRET_KEY}\"\n",
        server.url()
    );
    std::fs::write(&config, text).unwrap();
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("note"), "first\n").unwrap();
    let backup = ["mkbackuponly", "--include", tree.to_str().unwrap()];
    let prune = ["prune", "--keep-last", "1"];
    rr_ok(&config, &backup);
    let versioning = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    servers::set_bucket(&server, "?versioning", versioning);
    let ends_versions_of = |prefix: &str| {
        let rule = format!(
            "<LifecycleConfiguration><Rule><ID>a</ID><Filter><Prefix>{prefix}</Prefix></Filter><Status>Enabled</Status><NoncurrentVersionExpiration><NoncurrentDays>7</NoncurrentDays></NoncurrentVersionExpiration></Rule></LifecycleConfiguration>"
        );
        servers::set_bucket(&server, "?lifecycle", &rule);
    };
    let warns = || {
        for args in [&backup[..], &prune] {
            let output = rr(&config, args);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.success(), "{said}");
            let told = said.matches("warning: ").count();
            assert!(told == 1 && said.contains("keeps all versions: "), "{args:?}: {said}");
            assert!(said.contains("\nhint: give the bucket a lifecycle rule"), "{said}");
        }
    };
    warns();
    ends_versions_of("others/");
    warns();
    ends_versions_of("nodes/");
    rr_ok(&config, &backup);
    rr_ok(&config, &prune);
    rr_ok(&config, &["verify"]);
}

#[test]
fn s3_on_a_server_that_checks_signatures() {
    if servers::lacks("s3_on_a_server_that_checks_signatures", &["s3s-fs"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = servers::s3s(dir.path());
    for (access, secret, expected) in
        [(ACCESS_KEY, "sesamee", "SignatureDoesNotMatch"), ("AKIAOTHER", SECRET_KEY, "NotSignedUp")]
    {
        let options = TargetOptions { login: login(access, secret), ..s3_options(server.url()) };
        for way in [Access::Read, Access::Write] {
            let error = open(&format!("s3://{BUCKET}"), way, &options).unwrap_err();
            assert!(matches!(error.downcast_ref(), Some(StoreError::Denied { .. })), "{error:#}");
            let text = format!("{error:#}");
            assert!(text.contains(expected), "{text}");
            assert!(text.contains("the keys are those of target_options.login"), "{text}");
            assert!(!text.contains(secret) && !text.contains("Signature="), "{text}");
        }
    }
    s3_on(&server);
}

fn s3_on(server: &Server) {
    let options = s3_options(server.url());
    objects_come_and_go(&format!("s3://{BUCKET}"), &options);
    objects_come_and_go(&format!("s3://{BUCKET}/site/a"), &options);
    a_whole_journey(
        &format!(
            "target = \"s3://{BUCKET}/nodes\"\n[target_options]\nendpoint = \"{}\"\n\
         [target_options.login]\naccess_key = \"{ACCESS_KEY}\"\nsecret_key = \"{SECRET_KEY}\"\n",
            server.url()
        ),
        true,
    );
    // A list of more than one page.
    let store = open(&format!("s3://{BUCKET}/many"), Access::Write, &options).unwrap();
    for nr in 0..1003 {
        store.put(&format!("packs/{nr:04}"), b"").unwrap();
    }
    assert_eq!(store.list("packs/").unwrap().len(), 1003);
    keys::come_from_where_they_usually_are(server);
    keys::of_a_role_are_renewed(server);
    keys::of_a_program_with_its_callers_environment(server);
    bad_days::of_s3(server);
}

/// A free port, and how nginx listens there.
pub fn loopback() -> (u16, String) {
    let port = servers::free_port();
    (port, format!("127.0.0.1:{port}"))
}
