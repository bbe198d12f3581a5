//! A boot server for one scenario, in a network namespace of its own: dnsmasq with the configuration
//! that `rr pxe dnsmasq` prints, and nginx.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rr::prove::{Segment, Vm};
use rr::sys::run::Cmd;

use crate::lab;

pub const HTTP: &str = "http://10.77.0.1";
const TAP: &str = "tap0";
const SETUP: &str = "ip link set lo up && ip tuntap add tap0 mode tap && \
    ip address add 10.77.0.1/24 dev tap0 && ip link set tap0 up && exec sleep infinity";

/// What a machine boots by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loader {
    /// iPXE in the network card.
    Ipxe,
    /// The card's iPXE is taken for a common PXE ROM, which QEMU has none of: dnsmasq's lines for
    /// iPXE are left out.
    Pxelinux,
    /// The firmware's PXE, and the GRUB that the node made.
    Grub,
    /// The firmware's HTTP boot, and the other GRUB that the node made: dnsmasq's lines for PXE, which
    /// the firmware tries first, are left out, and TFTP with them.
    Http,
}

impl Loader {
    pub fn name(self) -> &'static str {
        match self {
            Loader::Ipxe => "ipxe",
            Loader::Pxelinux => "pxelinux",
            Loader::Grub => "grub",
            Loader::Http => "http",
        }
    }

    /// Whether the node itself put it into the tree.
    pub fn is_the_nodes(self) -> bool {
        matches!(self, Loader::Grub | Loader::Http)
    }

    /// What is in dnsmasq's lines that this machine must not meet.
    fn without(self) -> &'static [&'static str] {
        match self {
            Loader::Pxelinux => &["ipxe,iPXE"],
            Loader::Http => &["dhcp-boot=tag:uefi", "tftp"],
            Loader::Ipxe | Loader::Grub => &[],
        }
    }
}

/// Stopped when it is dropped.
#[derive(Debug)]
pub struct BootServer {
    children: Vec<Child>,
    namespace: PathBuf,
    dir: PathBuf,
    loader: Loader,
}

impl BootServer {
    /// Serves `tree`; logs go to `dir`.
    pub fn start(dir: &Path, tree: &Path, loader: Loader) -> Result<BootServer> {
        lab::make_dir(dir)?;
        let holder = mortal().args(["unshare", "--net", "sh", "-c", SETUP]);
        let holder = holder.spawn(Stdio::null(), Stdio::null())?;
        let namespace = PathBuf::from(format!("/proc/{}/ns/net", holder.id()));
        let mut server =
            BootServer { children: vec![holder], namespace, dir: dir.to_owned(), loader };
        server.wait_for("the TAP device", &["ip", "link", "show", TAP])?;
        server.start_dnsmasq(tree)?;
        server.start_nginx(tree)?;
        Ok(server)
    }

    pub fn segment(&self) -> Segment {
        Segment { namespace: self.namespace.clone(), tap: TAP.into() }
    }

    /// Waits until the boot menu of the node is on the screen.
    pub fn wait_menu(&self, vm: &mut Vm, timeout: Duration) -> Result<()> {
        if self.loader != Loader::Ipxe {
            return vm.wait_console("Automatic Recover", timeout);
        }
        // The ROM has no serial console: the menu is there soon after it was sent.
        let deadline = std::time::Instant::now() + timeout;
        while !lab::read(&self.log("dnsmasq"))?.contains("nodes/node001/menu.ipxe to") {
            if std::time::Instant::now() > deadline {
                bail!("the menu was not asked for; see {}", self.log("dnsmasq").display());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        std::thread::sleep(Duration::from_secs(5));
        Ok(())
    }

    /// Fails where the large files did not come over HTTP.
    pub fn ensure_http(&self) -> Result<()> {
        let (http, tftp) = (lab::read(&self.log("nginx"))?, lab::read(&self.log("dnsmasq"))?);
        for file in ["/kernel", "/initrd"] {
            let sent = |log: &str, word: &str| {
                log.lines().any(|line| line.contains(file) && line.contains(word))
            };
            ensure!(
                sent(&http, "GET ") && sent(&http, " 200 "),
                "{file} was not sent over HTTP\n{http}"
            );
            ensure!(!sent(&tftp, "sent "), "{file} was sent over TFTP");
        }
        Ok(())
    }

    fn log(&self, of: &str) -> PathBuf {
        self.dir.join(format!("{of}.log"))
    }

    fn start_dnsmasq(&mut self, tree: &Path) -> Result<()> {
        let file = self.dir.join("rr.toml");
        lab::write(&file, format!("[pxe]\nhttp = \"{HTTP}\"\n"))?;
        let text = Cmd::new(program())
            .arg("--config")
            .arg(&file)
            .args(["pxe", "dnsmasq", "--range", "10.77.0.100,10.77.0.200,255.255.255.0"])
            .args(["--interface", TAP, "--root"])
            .arg(tree)
            .text()?;
        let text: String = text
            .lines()
            .filter(|line| !self.loader.without().iter().any(|word| line.contains(word)))
            .map(|line| format!("{line}\n"))
            .collect();
        let conf = self.dir.join("dnsmasq.conf");
        lab::write(&conf, text)?;
        let child = self
            .inside()
            .args(["dnsmasq", "--keep-in-foreground", "--log-dhcp", "--user=root", "--pid-file="])
            .arg(format!("--conf-file={}", conf.display()))
            .arg(format!("--log-facility={}", self.log("dnsmasq").display()))
            .arg(format!("--dhcp-leasefile={}", self.dir.join("leases").display()))
            .spawn(Stdio::null(), Stdio::inherit())?;
        self.children.push(child);
        Ok(())
    }

    fn start_nginx(&mut self, tree: &Path) -> Result<()> {
        let dir = self.dir.display();
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {dir}/nginx-{kind};\n"))
            .collect();
        let conf = self.dir.join("nginx.conf");
        let text = format!(
            "daemon off;\nmaster_process off;\nuser root;\npid {dir}/nginx.pid;\n\
             error_log {dir}/nginx-error.log;\nevents {{}}\nhttp {{\naccess_log {};\n{temp}\
             server {{ listen 10.77.0.1:80; root {}; }}\n}}\n",
            self.log("nginx").display(),
            tree.display()
        );
        lab::write(&conf, text)?;
        let child = self
            .inside()
            .args(["nginx", "-c"])
            .arg(&conf)
            .spawn(Stdio::null(), Stdio::inherit())?;
        self.children.push(child);
        let get = "exec 3<>/dev/tcp/10.77.0.1/80";
        self.wait_for("the HTTP server", &["bash", "-c", get])
    }

    /// A command that runs in the namespace.
    fn inside(&self) -> Cmd {
        mortal().arg("nsenter").arg(format!("--net={}", self.namespace.display()))
    }

    fn wait_for(&self, what: &str, command: &[&str]) -> Result<()> {
        for _ in 0..100 {
            if self.inside().args(command).output()?.success() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("{what} is not there")
    }
}

impl Drop for BootServer {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Ends with the thread that started it.
fn mortal() -> Cmd {
    Cmd::new("setpriv").args(["--pdeathsig", "KILL"])
}

fn program() -> PathBuf {
    std::env::var_os("RR_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_rr").into()).into()
}

/// Puts this host's boot loaders into `tree`.
pub fn set_up(tree: &Path, scratch: &Path) -> Result<()> {
    let file = scratch.join("setup.toml");
    lab::write(&file, format!("[pxe]\ntree = \"file://{}\"\n", tree.display()))?;
    Cmd::new(program())
        .arg("--config")
        .arg(&file)
        .args(["pxe", "setup"])
        .run()
        .context("rr pxe setup")
}
