//! Parse, dispatch, exit code; PID 1 of the rescue system runs [`rr::init`].

use std::process::ExitCode;

use clap::Parser;
use rr::{cli::Cli, commands, ui};

fn main() -> ExitCode {
    if std::process::id() == 1 {
        rr::init::run();
    }
    let arg0 = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&arg0).file_name().unwrap_or_default().to_string_lossy();
    if matches!(&*name, "reboot" | "poweroff" | "halt") {
        rr::init::power(&name);
    }
    let cli = Cli::parse();
    ui::log::start(cli.global.verbose && !cli.global.json);
    commands::run(cli).into()
}
