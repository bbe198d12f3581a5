//! Keys for S3 that are not in the configuration: of the environment, of the usual files, of a role.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rr::sys::run::{Cmd, Output};

use crate::proxy::{Fault, Proxy};
use crate::servers::{ACCESS_KEY, BUCKET, SECRET_KEY, Server};

/// A machine with a node's configuration, which has no keys.
struct Desk {
    dir: tempfile::TempDir,
    config: PathBuf,
}

impl Desk {
    fn new(server: &Server) -> Desk {
        Desk::at(&server.url())
    }

    fn at(endpoint: &str) -> Desk {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("rr.toml");
        let text = format!(
            "node = \"node002\"\ntarget = \"s3://{BUCKET}/nodes\"\n[target_options]\nendpoint = \"{endpoint}\"\n"
        );
        std::fs::write(&config, text).unwrap();
        Desk { dir, config }
    }

    fn home(&self) -> &Path {
        self.dir.path()
    }

    fn list(&self, variables: &[(&str, &str)]) -> Output {
        let cmd = Cmd::new(env!("CARGO_BIN_EXE_rr")).arg("--config").arg(&self.config).arg("list");
        let cmd = cmd.env("HOME", self.home()).env("AWS_EC2_METADATA_DISABLED", "true");
        variables.iter().fold(cmd, |cmd, (name, value)| cmd.env(name, value)).output().unwrap()
    }

    fn lists(&self, variables: &[(&str, &str)]) {
        let found = self.list(variables);
        assert!(found.text().contains(" just /"), "{}", String::from_utf8_lossy(&found.stderr));
    }
}

pub fn come_from_where_they_usually_are(server: &Server) {
    let desk = Desk::new(server);
    let none = desk.list(&[]);
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(!none.success() && said.contains("there are no keys for S3"), "{said}");

    desk.lists(&[("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)]);

    std::fs::create_dir(desk.home().join(".aws")).unwrap();
    let file = format!(
        "[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    );
    std::fs::write(desk.home().join(".aws/credentials"), file).unwrap();
    desk.lists(&[]);
}

/// The role of a machine by version 2 of its metadata service, and that of a container.
pub fn of_a_role_are_renewed(server: &Server) {
    let (desk, role) = (Desk::new(server), Proxy::start(server.port));
    let keys = |ends: &str| {
        let text = format!(
            "{{\n  \"Code\" : \"Success\",\n  \"LastUpdated\" : \"2026-11-21T10:00:00Z\",\n  \"Type\" : \"AWS-HMAC\",\n  \"AccessKeyId\" : \"{ACCESS_KEY}\",\n  \"SecretAccessKey\" : \"{SECRET_KEY}\",\n  \"Token\" : \"t\",\n  \"Expiration\" : \"{ends}\"\n}}"
        );
        answer(&text)
    };
    let (url, long, soon) = (role.url(), "2099-11-21T16:00:00Z", "2026-01-01T00:00:00Z");
    let machine = [("AWS_EC2_METADATA_DISABLED", ""), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url)];
    role.fail("api/token", 1, answer("a-token"));
    role.fail("security-credentials/ ", 1, answer("rr"));
    role.fail("security-credentials/rr", 1, keys(long));
    desk.lists(&machine);
    assert!(role.saw("x-aws-ec2-metadata-token: a-token"));
    assert_eq!(role.count(""), 3);

    let uri = format!("{url}/keys");
    let container = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "of-the-container"),
    ];
    // The first time it breaks off.
    role.fail("/keys", 1, Fault::Instead(""));
    role.fail("/keys", 1, keys(long));
    desk.lists(&container);
    assert!(role.saw("authorization: of-the-container"));
    assert_eq!(role.count("/keys"), 2);
    // Those that end are asked for again.
    role.fail("/keys", 99, keys(soon));
    desk.lists(&container);
    assert!(role.count("/keys") > 2);

    // A machine that has a metadata service and no role.
    role.fail("api/token", 1, answer("a-token"));
    let none = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    role.fail("security-credentials/ ", 1, Fault::Instead(none));
    let none = desk.list(&machine);
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(!none.success() && said.contains("there are no keys for S3"), "{said}");
}

/// All that is answered is told beforehand.
#[test]
fn that_a_server_calls_ended_are_asked_for_again() {
    let (s3, role) = (Proxy::start(1), Proxy::start(1));
    let desk = Desk::at(&s3.url());
    let uri = format!("{}/keys", role.url());
    let container = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.as_str())];
    let keys = |token: &str, ends: &str| {
        let text = format!(
            "{{\"AccessKeyId\": \"{ACCESS_KEY}\", \"SecretAccessKey\": \"{SECRET_KEY}\", \"Token\": \"{token}\", \"Expiration\": \"{ends}\"}}"
        );
        role.fail("/keys", 1, answer(&text));
    };
    let error = |status: &str, code: &str| {
        let text = format!("<Error><Code>{code}</Code><Message>No.</Message></Error>");
        let text = format!(
            "HTTP/1.1 {status}\r\nDate: Fri, 21 Nov 2036 11:58:00 GMT\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
        s3.fail("GET", 1, Fault::Instead(text.leak()));
    };
    let list = || {
        error("404 Not Found", "NoSuchKey");
        let list = "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated></ListBucketResult>";
        s3.fail("list-type", 1, answer(list));
        error("404 Not Found", "NoSuchKey");
        let listed = desk.list(&container);
        (listed.success(), String::from_utf8_lossy(&listed.stderr).into_owned())
    };
    let long = "2099-11-21T16:00:00Z";
    for code in ["ExpiredToken", "InvalidToken"] {
        keys("first", long);
        keys("second", long);
        error("400 Bad Request", code);
        let (done, said) = list();
        assert!(done, "{said}");
        assert_eq!(role.count("/keys"), 2);
        assert!(s3.count("X-Amz-Security-Token=second") > 1);
    }
    // There are no others: no means no.
    for _ in 0..2 {
        keys("third", long);
    }
    error("400 Bad Request", "ExpiredToken");
    let (_, said) = list();
    assert!(
        said.contains("ExpiredToken: No.\nhint: the keys are those of this machine's role"),
        "{said}"
    );
    assert_eq!((role.count("/keys"), s3.count("GET")), (2, 1));
    // They end in two minutes: it is the server that knows what time it is.
    keys("fourth", "2036-11-21T12:00:00Z");
    keys("fifth", long);
    error("403 Forbidden", "RequestTimeTooSkewed");
    let (done, said) = list();
    assert!(done, "{said}");
    assert_eq!(role.count("/keys"), 2);
    assert!(s3.count("X-Amz-Security-Token=fifth") > 1);
}

/// A helper as aws-vault and vault are: it needs HOME and variables of its own.
pub fn of_a_program_with_its_callers_environment(server: &Server) {
    let desk = Desk::new(server);
    let (aws, bin) = (desk.home().join(".aws"), desk.home().join("bin"));
    std::fs::create_dir(&aws).unwrap();
    std::fs::create_dir(&bin).unwrap();
    let helper = bin.join("rr-test-helper");
    let text = format!(
        "#!/bin/sh\n[ \"$HOME\" = \"$WANTED_HOME\" ] || {{ echo HOME is \"$HOME\" >&2; exit 3; }}\n\
         [ \"$AWS_PROFILE\" = vault ] || {{ echo no profile >&2; exit 3; }}\n\
         [ \"$VAULT_ADDR\" = https://vault ] || {{ echo no vault >&2; exit 3; }}\n\
         [ \"$LC_ALL\" = C ] && [ -z \"$LD_BIND_NOW$BASH_ENV\" ] || {{ env >&2; exit 3; }}\n\
         echo '{{\"Version\": 1, \"AccessKeyId\": \"{ACCESS_KEY}\", \"SecretAccessKey\": \"{SECRET_KEY}\"}}'\n"
    );
    std::fs::write(&helper, text).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = aws.join("config");
    let named = |helper: &str| {
        std::fs::write(&config, format!("[profile vault]\ncredential_process = {helper}\n"))
            .unwrap();
    };
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let home = desk.home().to_str().unwrap();
    let all = [
        ("AWS_PROFILE", "vault"),
        ("AWS_CONFIG_FILE", config.to_str().unwrap()),
        ("VAULT_ADDR", "https://vault"),
        ("WANTED_HOME", home),
        ("LC_ALL", "de_DE.UTF-8"),
        ("LD_BIND_NOW", "1"),
        ("BASH_ENV", "/dev/null"),
        ("PATH", &path),
    ];
    named(helper.to_str().unwrap());
    desk.lists(&all);
    // A service of systemd has no HOME; root's is where the profiles are looked for.
    desk.lists(&[&all[..], &[("HOME", ""), ("WANTED_HOME", "/root")]].concat());
    // What a PATH names that anybody may have set is not run; how to name it is said.
    named("rr-test-helper --for rr");
    let none = desk.list(&all);
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(!none.success() && said.contains("rr-test-helper: not found"), "{said}");
    assert!(said.contains("hint: ") && said.contains("by its absolute path"), "{said}");
}

/// Profiles of `~/.aws/config`, by the STS that moto has: what they give is seen in what is signed.
pub fn of_profiles_lead_to_roles(server: &Server) {
    let desk = Desk::new(server);
    let (s3, sts) = (Proxy::start(server.port), Proxy::start(server.port));
    let (at, ask) = (s3.url(), sts.url());
    let aws = desk.home().join(".aws");
    std::fs::create_dir(&aws).unwrap();
    let config = format!(
        "[profile night]\nrole_arn = arn:aws:iam::123456789012:role/backup\nsource_profile = base\n\
         [profile pod]\nrole_arn = arn:aws:iam::123456789012:role/pod\nweb_identity_token_file = {0}/token\n\
         [profile said]\ncredential_process = cat {0}/said\n\
         [profile fails]\ncredential_process = echo no such thing >&2; exit 3\n\
         [profile person]\nsso_session = s\n",
        desk.home().display()
    );
    std::fs::write(aws.join("config"), config).unwrap();
    let base = "[base]\naws_access_key_id = AKIABASE\naws_secret_access_key = sesame\n";
    std::fs::write(aws.join("credentials"), base).unwrap();
    std::fs::write(desk.home().join("token"), "a.web.token\n").unwrap();
    let said = "{\"Version\": 1, \"AccessKeyId\": \"AKIASAID\", \"SecretAccessKey\": \"sesame\"}";
    std::fs::write(desk.home().join("said"), said).unwrap();
    let text = format!(
        "node = \"node002\"\ntarget = \"s3://{BUCKET}/nodes\"\n[target_options]\nendpoint = \"{at}\"\n"
    );
    std::fs::write(&desk.config, text).unwrap();
    let with = |profile| {
        let own = ("AWS_ENDPOINT_URL_STS", ask.as_str());
        let found = desk.list(&[("AWS_PROFILE", profile), own]);
        (found.success(), found.text() + &String::from_utf8_lossy(&found.stderr))
    };
    // Those of moto's STS start like that.
    for (profile, signer, asked) in
        [("night", "Credential=ASIA", 1), ("pod", "Credential=ASIA", 1), ("said", "AKIASAID", 0)]
    {
        let (done, said) = with(profile);
        assert!(done && said.contains(" just /"), "{profile}: {said}");
        assert!(s3.count(signer) > 0, "{profile}");
        assert_eq!(sts.count("POST / "), asked, "{profile}");
    }
    assert!(sts.saw_in_head("credential=akiabase/"));
    // What can't be had is said, by name and with a way out.
    for (profile, expected) in [
        ("person", "signs in with a browser (sso_session)"),
        ("fails", "no such thing"),
        ("none", "AWS_PROFILE of the environment names it"),
    ] {
        let (done, said) = with(profile);
        assert!(!done && said.contains(expected) && !said.contains("sesame"), "{said}");
    }
    let denied = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>Not you.</Message></Error></ErrorResponse>";
    let denied =
        format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n{denied}", denied.len());
    sts.fail("POST", 1, Fault::Instead(denied.leak()));
    let (done, said) = with("night");
    assert!(
        !done && said.contains("AccessDenied: Not you.") && said.contains("trust policy"),
        "{said}"
    );
    assert_eq!(sts.count("POST"), 1);
    // A service that is busy is asked again.
    sts.fail("POST", 2, Fault::Instead("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"));
    let (done, said) = with("night");
    assert!(done, "{said}");
    assert_eq!(sts.count("POST"), 3);
}

fn answer(body: &str) -> Fault {
    let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    Fault::Instead(text.leak())
}
