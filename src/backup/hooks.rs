//! The admin's own commands around the reading of files: `pre` brings a database to rest, `post`
//! wakes it up again, whatever happened in between.

use anyhow::{Context, Result};

use crate::config::schema::BackupConfig;
use crate::sys::at_end::AtEnd;
use crate::sys::hook::{self, Hook};
use crate::ui::Ui;

/// What has to be run when the files are read.
#[derive(Debug)]
pub(super) struct Hooks {
    post: Option<AtEnd>,
}

impl Hooks {
    /// Runs `pre`.
    ///
    /// # Errors
    /// One of its commands failed. `post` has run by then.
    pub fn start(config: &BackupConfig, node: &str, generation: &str, ui: &Ui) -> Result<Hooks> {
        let timeout = hook::timeout(config.hook_timeout_seconds);
        let env = [("RR_NODE", node.as_ref()), ("RR_GENERATION", generation.as_ref())];
        // Before `pre`: what half of it did has to be undone, too.
        let post = (!config.post.is_empty())
            .then(|| AtEnd::new("backup.post", &config.post, &env, timeout));
        let hooks = Hooks { post: post.transpose().context("preparing backup.post")? };
        let pre = Hook { key: "backup.pre", commands: &config.pre, env: &env, timeout };
        if let Err(error) = pre.run(|name| ui.info(format!("Running {name}"))) {
            hooks.finish(false, ui);
            return Err(error.context("running what must be done before the backup"));
        }
        Ok(hooks)
    }

    /// Runs `post`. What fails there does not make the backup a worse one.
    pub fn finish(self, is_good: bool, ui: &Ui) {
        let Some(post) = self.post else { return };
        ui.info("Running backup.post");
        if let Err(error) = post.run(if is_good { "ok" } else { "failed" }) {
            ui.warn(format!("backup.post failed: {error:#}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::Style;

    fn hooks(pre: &[&str], post: &[&str]) -> (tempfile::TempDir, BackupConfig) {
        let dir = tempfile::tempdir().unwrap();
        let log = format!(" >> {}/log", dir.path().display());
        let with_log =
            |commands: &[&str]| commands.iter().map(|c| c.replace(" LOG", &log)).collect();
        let config = BackupConfig {
            pre: with_log(pre),
            post: with_log(post),
            hook_timeout_seconds: 20,
            ..BackupConfig::default()
        };
        (dir, config)
    }

    fn log(dir: &tempfile::TempDir) -> String {
        std::fs::read_to_string(dir.path().join("log")).unwrap_or_default()
    }

    #[test]
    fn post_runs_after_a_good_backup_and_is_told_so() {
        let ui = Ui::new(Style::Plain);
        let post = ["false", "echo post $RR_RESULT $RR_GENERATION LOG"];
        let (dir, config) = hooks(&["echo pre $RR_NODE LOG"], &post);
        let hooks = Hooks::start(&config, "n1", "g1", &ui).unwrap();
        assert_eq!(log(&dir), "pre n1\n");
        hooks.finish(true, &ui);
        assert_eq!(log(&dir), "pre n1\npost ok g1\n", "in spite of one that fails");
        assert_eq!(ui.warnings().len(), 1, "{:?}", ui.warnings());
    }

    #[test]
    fn a_pre_that_fails_stops_the_backup_and_post_undoes_it() {
        let ui = Ui::new(Style::Plain);
        let (dir, config) = hooks(
            &["echo 1 LOG", "echo oops >&2; exit 3", "echo no LOG"],
            &["echo $RR_RESULT LOG"],
        );
        let said = format!("{:#}", Hooks::start(&config, "n1", "g1", &ui).unwrap_err());
        assert!(said.contains("oops"), "{said}");
        assert_eq!(log(&dir), "1\nfailed\n");
    }

    #[test]
    fn the_words_of_a_command_are_in_no_log_and_no_error() {
        crate::ui::log::start(true);
        let ui = Ui::new(Style::Plain);
        let words = |end: &str| format!("echo it said so >&2; : --password=opensesame; {end}");
        let (_dir, config) = hooks(&[&words(""), &words("exit 3")], &[&words("exit 4")]);
        let said = format!("{:#}", Hooks::start(&config, "n1", "g1", &ui).unwrap_err());
        assert!(said.contains("backup.pre (2 of 2) failed (exit status: 3)\nit said so"), "{said}");
        let log = String::from_utf8(crate::ui::log::text()).unwrap();
        assert!(log.contains("$ backup.pre (1 of 2)\n"), "{log}");
        assert!(log.contains("$ backup.post &\n"), "{log}");
        let warnings = ui.warnings().join("\n");
        assert!(warnings.contains("backup.post failed"), "{warnings}");
        for text in [said, log, warnings] {
            assert!(!text.contains("opensesame"), "{text}");
        }
    }

    #[test]
    fn post_runs_when_its_owner_is_gone_without_a_word() {
        let ui = Ui::new(Style::Plain);
        let (dir, config) = hooks(&[], &["echo $RR_RESULT LOG"]);
        drop(Hooks::start(&config, "n1", "g1", &ui).unwrap());
        assert_eq!(log(&dir), "killed\n");
    }
}
