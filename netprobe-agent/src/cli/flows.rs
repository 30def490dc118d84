//! `netprobe flows`.

use std::io;

use clap::Args;

use super::{
    AgentArgs,
    filters::FilterArgs,
    output::{Form, Printer},
};
use crate::{api::FlowsAnswer, error::AgentError};

#[derive(Debug, Args)]
pub(super) struct FlowsArgs {
    /// Form of a flow
    #[arg(short, long, value_enum, default_value = "table")]
    output: Form,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    filters: FilterArgs,
}

pub(super) fn flows(args: &FlowsArgs) -> Result<(), AgentError> {
    let filter = args.filters.filter()?.to_string();
    let client = args.agent.client()?;
    let mut printer = Printer::flows(io::stdout().lock(), args.output);
    let mut cursor: Option<String> = None;
    loop {
        let mut parameters = vec![("filter", filter.as_str()), ("limit", "1000")];
        parameters.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let page: FlowsAnswer = client.get("/api/v1/flows", &parameters)?;
        for flow in &page.flows {
            printer.event(flow)?;
        }
        printer.flush()?;
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(());
        }
    }
}
