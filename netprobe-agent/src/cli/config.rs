//! `netprobe config`, and how every command finds its configuration.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::print;
use crate::{
    config::{self, Loaded, Profile},
    error::AgentError,
};

/// Which configuration.
#[derive(Clone, Debug, Args)]
pub(super) struct ConfigArgs {
    /// Configuration file [default: /etc/netprobe/netprobe.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Set of defaults under the file
    #[arg(long, value_enum, default_value_t)]
    pub(super) profile: Profile,
}

impl ConfigArgs {
    pub(super) fn load(&self) -> Result<Loaded, AgentError> {
        Ok(Loaded::of_process(self.profile, self.config.as_deref())?)
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Read every layer and say whether it can be used
    Check(ConfigArgs),
    /// Print what is in force as TOML, each value that is no default with its source
    Show {
        #[command(flatten)]
        config: ConfigArgs,
        /// Print the shipped default file with its documentation instead
        #[arg(long, conflicts_with_all = ["config", "profile"])]
        defaults: bool,
    },
    /// Print the reference of every key, as Markdown
    Reference,
}

pub(super) fn config(command: &ConfigCommand) -> Result<(), AgentError> {
    match command {
        ConfigCommand::Check(args) => {
            args.load()?;
            print(b"the configuration can be used\n")
        }
        ConfigCommand::Show { defaults: true, .. } => print(config::default_file().as_bytes()),
        ConfigCommand::Show { config, .. } => print(config.load()?.show().as_bytes()),
        ConfigCommand::Reference => print(config::page().as_bytes()),
    }
}
