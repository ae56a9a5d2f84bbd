//! `profiled reload`: a running daemon reads its settings, its tokens and its certificate again.

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::args::{Remote, block_on};
use super::error::CliError;
use super::terminal::{print_json, say, shown};

/// Make a running daemon read its settings, its tokens and its certificate again. Fails if anything is wrong in them: then everything
/// stays as it was
///
/// The same as SIGHUP, with an answer. Takes a token of --all-clients --scope admin, if the daemon requires one. Of several nodes it
/// is about the one at --url.
#[derive(Debug, Args)]
pub(super) struct Reload {
    #[command(flatten)]
    remote: Remote,
}

/// What was read again, as the native API tells it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReloadedView {
    changed: Vec<String>,
    at_restart: Vec<String>,
    tokens: u64,
    certificates: u64,
    clock_accepted_seconds: Option<u64>,
}

/// Runs the command.
pub(super) fn run(command: Reload) -> Result<(), CliError> {
    block_on(async move {
        let answer = command.remote.client()?.post_json("/api/v1/reload", &json!({})).await?;
        let reloaded: ReloadedView = answer.json()?;
        if command.remote.json {
            return print_json(&reloaded);
        }
        say(reloaded.in_words());
        Ok(())
    })
}

impl ReloadedView {
    fn in_words(&self) -> String {
        let named = |names: &[String]| shown(&names.join(", "));
        let mut lines = vec![match self.changed.as_slice() {
            [] => "no setting has another value".to_owned(),
            changed => format!("changed: {}", named(changed)),
        }];
        if !self.at_restart.is_empty() {
            lines.push(format!("changed, but counts at the next start: {}", named(&self.at_restart)));
        }
        let counted = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let certificates = match self.certificates {
            0 => String::new(),
            count => format!(" and {}", counted(count, "certificate")),
        };
        lines.push(format!("read again: {}{certificates}", counted(self.tokens, "token")));
        if let Some(ahead) = self.clock_accepted_seconds {
            lines.push(format!("the machine's clock is believed again, {} ahead", counted(ahead, "second")));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_counts_now_and_what_later() {
        let mut reloaded = ReloadedView {
            changed: vec![],
            at_restart: vec![],
            tokens: 1,
            certificates: 0,
            clock_accepted_seconds: None,
        };
        assert_eq!(reloaded.in_words(), "no setting has another value\nread again: 1 token");
        reloaded.changed = vec!["rows_limit".into(), "clients.shop".into()];
        reloaded.at_restart = vec!["listen".into()];
        (reloaded.tokens, reloaded.certificates, reloaded.clock_accepted_seconds) = (3, 2, Some(90));
        let said = "changed: rows_limit, clients.shop\nchanged, but counts at the next start: listen\n\
                    read again: 3 tokens and 2 certificates\n\
                    the machine's clock is believed again, 90 seconds ahead";
        assert_eq!(reloaded.in_words(), said);
    }
}
