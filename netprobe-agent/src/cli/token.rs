//! `netprobe token`.

use std::io::Write as _;

use clap::Subcommand;

use super::print;
use crate::{
    config::{Role, TokenHash},
    error::AgentError,
};

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token: it goes to stdout and is kept nowhere; the entry for the configuration, with its hash, to stderr
    #[command(after_help = "\
Examples:
  netprobe token new --name grafana > grafana.token
  netprobe token new --name ops --role operator")]
    New {
        /// Name of the token, in api.tokens and in the log
        #[arg(long, value_parser = name)]
        name: String,
        /// What its bearer may do
        #[arg(long, value_enum, default_value_t = Role::Reader)]
        role: Role,
    },
}

pub(super) fn token(command: &TokenCommand) -> Result<(), AgentError> {
    let TokenCommand::New { name, role } = command;
    let (token, hash) = TokenHash::make(*role).map_err(|error| {
        AgentError::other(
            format!("the system gives no random bytes: {error}"),
            "try again when it has started",
        )
    })?;
    print(format!("{token}\n").as_bytes())?;
    // Nothing can be done when stderr is closed; the token without its hash is of no use to anyone.
    let _ = writeln!(
        std::io::stderr(),
        "Add this to the configuration, then reload the agent (SIGHUP):\n\n[api.tokens]\n{name} = \"{hash}\""
    );
    Ok(())
}

fn name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !text.is_empty() && text.len() <= 64 && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("1 to 64 letters, digits, - and _ are allowed".to_owned())
    }
}
