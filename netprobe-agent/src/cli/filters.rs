//! The filter flags: the list of the grammar, in the order they were written, because `--not` negates the next.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::{
    error::AgentError,
    filter::{FLAGS, Filter},
};

/// Flags as pairs, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct FilterArgs {
    pairs: Vec<(String, String)>,
}

impl FilterArgs {
    /// Whether there are none.
    pub(super) const fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The filter they make.
    pub(super) fn filter(&self) -> Result<Filter, AgentError> {
        Filter::from_pairs(self.pairs.iter().map(|(name, value)| (name, value)))
            .map_err(|error| AgentError::Usage(error.to_string()))
    }
}

impl FromArgMatches for FilterArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut placed = Vec::new();
        for name in FLAGS.iter().map(|flag| flag.name).chain(["not"]) {
            let indices = matches.indices_of(name).into_iter().flatten();
            let values = matches.get_many::<String>(name).into_iter().flatten();
            placed.extend(indices.zip(values).map(|(index, value)| (index, name, value)));
        }
        placed.sort();
        let pairs = placed
            .into_iter()
            .map(|(_, name, value)| (name.to_owned(), value.clone()))
            .collect();
        Ok(FilterArgs { pairs })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = FilterArgs::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for FilterArgs {
    fn augment_args(command: Command) -> Command {
        let heading = "Filters (all must hold)";
        let command = command.arg(
            Arg::new("not")
                .long("not")
                .action(ArgAction::Append)
                .num_args(0)
                .default_missing_value("")
                .help_heading(heading)
                .help("negate the next filter"),
        );
        FLAGS.iter().fold(command, |command, flag| {
            command.arg(
                Arg::new(flag.name)
                    .long(flag.name)
                    .value_name(flag.value)
                    .action(ArgAction::Append)
                    .help_heading(heading)
                    .help(flag.help),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
