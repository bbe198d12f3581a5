//! Parse, dispatch, exit code; PID 1 of the rescue system runs [`rr::init`].

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use rr::{cli::Cli, commands, rescue, ui};

/// What the kernel starts in an initrd, by this name.
const INIT: &str = "/init";

/// Every container has a PID 1, and in one rr may be that with a verb. Words that follow say nothing:
/// the kernel gives its init what it does not know of its own command line.
fn is_rescue_init(arg0: &OsStr) -> bool {
    std::process::id() == 1 && arg0 == INIT && Path::new(rescue::info::PATH).exists()
}

fn main() -> ExitCode {
    let arg0 = std::env::args_os().next().unwrap_or_default();
    if is_rescue_init(&arg0) {
        rr::init::run();
    }
    let name = Path::new(&arg0).file_name().unwrap_or_default().to_string_lossy();
    if matches!(&*name, "reboot" | "poweroff" | "halt") {
        rr::init::power(&name);
    }
    let cli = Cli::parse();
    ui::log::start(cli.global.verbose && !cli.global.json);
    commands::run(cli).into()
}
