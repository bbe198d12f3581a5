//! Real servers for objects, started by a test and gone with it: nginx with WebDAV or with nothing
//! but PUT and DELETE, Apache, and two for S3: moto, which knows much of it and lets everybody in,
//! and s3s-fs, which checks who signs.
#![allow(dead_code)] // each test takes what it needs

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rr::sys::run::Cmd;
use rr::sys::tools;

pub const BUCKET: &str = "work001";
/// What nginx and Apache want where they ask.
pub const USER: &str = "node001";
pub const PASSWORD: &str = "open sesame";
/// What s3s-fs wants.
pub const ACCESS_KEY: &str = "AKIAEXAMPLE";
pub const SECRET_KEY: &str = "sesame";

#[derive(Debug)]
pub struct Server {
    child: Child,
    pub port: u16,
    /// What it serves; empty for moto, which keeps all in memory.
    pub files: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// How many bytes it has read and written so far, of files and of most connections, as
    /// proc_pid_io(5) counts them: `rchar` and `wchar`.
    pub fn moved_bytes(&self, what: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/io", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(": "));
        line.unwrap().parse().unwrap()
    }

    /// As when its power fails.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Says why a test does nothing where one of the programs is not there.
pub fn lacks(test: &str, programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| find(program).is_none());
    if let Some(program) = missing {
        eprintln!(
            "{test} is skipped: {program} is not installed (scripts/install-deps, scripts/install-servers)"
        );
    }
    missing.is_some()
}

fn find(program: &str) -> Option<PathBuf> {
    // Where scripts/install-servers puts what Debian has not.
    let own = match program {
        "moto_server" => "moto/bin/moto_server",
        "s3s-fs" => "s3s-fs/bin/s3s-fs",
        _ => return tools::find(program.as_ref()),
    };
    let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
    let cache = std::env::var_os("RR_LAB_CACHE")
        .map_or_else(|| Path::new(&home).join(".cache/rr-lab"), PathBuf::from);
    Some(cache.join(own)).filter(|path| path.exists())
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts a program that serves at `port`; it dies with the thread that started it.
fn start(program: &str, args: &[&str], port: u16, dir: &Path, files: PathBuf) -> Server {
    let log = std::fs::File::create(dir.join("server.log")).unwrap();
    let child = Cmd::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(find(program).unwrap())
        .args(args)
        .spawn(Stdio::from(log.try_clone().unwrap()), Stdio::from(log))
        .unwrap();
    let mut server = Server { child, port, files };
    let started = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let ended = server.child.try_wait().unwrap().is_some();
        let late = started.elapsed() > Duration::from_secs(60);
        if ended || late {
            let log = std::fs::read_to_string(dir.join("server.log")).unwrap_or_default();
            panic!("{program} does not answer: {log}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    server
}

fn make(dir: &Path) -> PathBuf {
    std::fs::create_dir_all(dir).unwrap();
    dir.to_owned()
}

/// nginx, with these lines in its `server` block; `DIR` and `FILES` in them are directories.
pub fn nginx(dir: &Path, port: u16, listen: &str, location: &str) -> Server {
    let files = make(&dir.join("files"));
    for sub in ["body", "proxy", "logs"] {
        make(&dir.join(sub));
    }
    let module = "/usr/lib/nginx/modules/ngx_http_dav_ext_module.so";
    let text = "load_module MODULE;\n\
        user root;\n\
        daemon off;\n\
        master_process off;\n\
        pid DIR/nginx.pid;\n\
        error_log DIR/error.log;\n\
        events { worker_connections 256; }\n\
        http {\n\
          log_format requests '$remote_user $connection $request_method $status';\n\
          access_log DIR/access.log requests;\n\
          client_body_temp_path DIR/body;\n\
          proxy_temp_path DIR/proxy; fastcgi_temp_path DIR/proxy; uwsgi_temp_path DIR/proxy; scgi_temp_path DIR/proxy;\n\
          client_max_body_size 0;\n\
          server { listen LISTEN; root FILES; LOCATION }\n\
        }\n"
        .replace("LOCATION", location)
        .replace("LISTEN", listen)
        .replace("MODULE", module)
        .replace("FILES", files.to_str().unwrap())
        .replace("DIR", dir.to_str().unwrap());
    std::fs::write(dir.join("nginx.conf"), text).unwrap();
    let conf = dir.join("nginx.conf");
    let args = ["-p", dir.to_str().unwrap(), "-c", conf.to_str().unwrap(), "-e", "stderr"];
    start("nginx", &args, port, dir, files)
}

pub const NGINX_DAV: &str = "dav_methods PUT DELETE MKCOL COPY MOVE; dav_ext_methods PROPFIND OPTIONS; create_full_put_path off;";
pub const NGINX_PLAIN: &str = "dav_methods PUT DELETE; create_full_put_path on;";
/// With a password, as file `DIR/users` says.
pub const NGINX_ASKS: &str = "auth_basic rr; auth_basic_user_file DIR/users;";

pub fn write_users(dir: &Path) {
    std::fs::write(dir.join("users"), format!("{USER}:{{PLAIN}}{PASSWORD}\n")).unwrap();
}

pub fn apache(dir: &Path) -> Server {
    let files = make(&dir.join("files"));
    let port = free_port();
    let modules = ["mpm_event", "authz_core", "dav", "dav_fs"]
        .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"));
    let text = format!(
        "{}ServerRoot {dir}\nServerName localhost\nUser www-data\nGroup www-data\nPidFile {dir}/pid\nErrorLog {dir}/error.log\n\
         Listen 127.0.0.1:{port}\nDocumentRoot {files}\nDavLockDB {dir}/locks\n\
         <Directory {files}>\nDav On\nRequire all granted\n</Directory>\n",
        modules.concat(),
        dir = dir.display(),
        files = files.display(),
    );
    std::fs::write(dir.join("apache.conf"), text).unwrap();
    if nix::unistd::geteuid().is_root() {
        // Apache does not serve as root.
        Cmd::new("chown").args(["-R", "www-data"]).arg(dir).run().unwrap();
    }
    let conf = dir.join("apache.conf");
    let args = ["-D", "FOREGROUND", "-X", "-f", conf.to_str().unwrap()];
    start("apache2", &args, port, dir, files)
}

/// With the bucket [`BUCKET`].
pub fn moto(dir: &Path) -> Server {
    let port = free_port();
    let text = port.to_string();
    let server = start("moto_server", &["-H", "127.0.0.1", "-p", &text], port, dir, PathBuf::new());
    set_bucket(&server, "", "");
    server
}

/// Puts what is asked for as `?what` of the bucket [`BUCKET`] of moto; as nothing, the bucket itself.
pub fn set_bucket(server: &Server, what: &str, xml: &str) {
    let made = ureq::put(format!("{}/{BUCKET}{what}", server.url()))
        .header("Authorization", "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request")
        .send(xml);
    assert_eq!(made.unwrap().status(), 200);
}

/// With the bucket [`BUCKET`], for [`ACCESS_KEY`] only.
pub fn s3s(dir: &Path) -> Server {
    s3s_at(dir, free_port())
}

pub fn s3s_at(dir: &Path, port: u16) -> Server {
    let files = make(&dir.join("files"));
    make(&files.join(BUCKET));
    let text = port.to_string();
    let keys = ["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY];
    let args = [&["--host", "127.0.0.1", "--port", &text], &keys[..], &[files.to_str().unwrap()]];
    start("s3s-fs", &args.concat(), port, dir, files.clone())
}

/// What openssl(1) makes: an authority, and certificates of this host.
#[derive(Debug)]
pub struct Authority<'a>(&'a Path);

impl Authority<'_> {
    pub fn make(dir: &Path) -> Authority<'_> {
        let authority = Authority(dir);
        authority.openssl(
            "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=ca -days 30",
        );
        authority
    }

    /// `NAME.pem` and `NAME.key`, for localhost and for this host as an emulated guest sees it.
    pub fn sign(&self, name: &str, days: u32) -> (PathBuf, PathBuf) {
        self.openssl(&format!(
            "req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name} -addext subjectAltName=DNS:localhost,IP:10.0.2.2"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -copy_extensions copy -days {days} -out {name}.pem"
        ));
        (self.0.join(format!("{name}.pem")), self.0.join(format!("{name}.key")))
    }

    fn openssl(&self, line: &str) {
        Cmd::new("openssl").args(line.split(' ')).dir(self.0).run().unwrap();
    }
}
