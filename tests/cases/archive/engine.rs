//! The archive read by engines that know nothing of netprobe.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::Agent;
use netprobe_tests::tools;

use super::{is_update, python, settings, traffic};

/// Counts and sums by kind, service and partition, as `docs/archive.md` tells people to ask; then closed flows, without a
/// word on types.
const DUCKDB: &str = r"
import duckdb, json, sys
rows = duckdb.sql(f'''
    SELECT kind, service, count(*), count(DISTINCT (host, run, seq)), sum(bytes_sent)::BIGINT,
           count(*) FILTER (date || 'T' || hour != ts[:13])
    FROM read_json('{sys.argv[1]}/v1/*/*/*/*.jsonl.zst', hive_partitioning = true,
                   hive_types = {{'date': VARCHAR, 'hour': VARCHAR}}, columns = {{kind: 'VARCHAR',
                   service: 'VARCHAR', host: 'VARCHAR', run: 'VARCHAR', seq: 'UBIGINT', ts: 'VARCHAR',
                   bytes_sent: 'UBIGINT'}})
    GROUP BY ALL ORDER BY ALL''').fetchall()
print(json.dumps(rows))
print(duckdb.sql(f'''SELECT count(*) FROM read_json('{sys.argv[1]}/v1/*/*/*/*.jsonl.zst', hive_partitioning = true)
    WHERE date IS NOT NULL AND kind = 'flow' AND flow.state = 'closed' ''').fetchall()[0][0])
";

/// The same asked of ClickHouse's embedded build. It guesses types from the first file, which may have no flow in it: so they
/// are said.
const CLICKHOUSE: &str = r"
import chdb, sys
files = f'{sys.argv[1]}/v1/*/*/*/*.jsonl.zst'
rows = chdb.query(f'''
    SELECT kind, service, count(), uniqExact(host, run, seq), sum(bytes_sent),
           countIf(date || 'T' || hour != substring(ts, 1, 13))
    FROM file('{files}', JSONEachRow, 'kind String, service Nullable(String), host String, run String, seq UInt64,
              ts String, bytes_sent Nullable(UInt64), date String, hour String')
    GROUP BY kind, service ORDER BY kind, service''', 'JSONCompactEachRow')
print('[' + ','.join(str(rows).splitlines()) + ']')
closed = chdb.query(f'''
    SELECT count()
    FROM file('{files}', JSONEachRow, 'kind String, date String, flow Tuple(state Nullable(String))')
    WHERE date != '' AND kind = 'flow' AND flow.state = 'closed' ''', 'TSV')
print(str(closed).strip())
";

/// Kind, service, events, distinct events, bytes sent, events outside of their partition.
type Row = (String, Option<String>, u64, u64, Option<u64>, u64);

pub(super) fn duckdb() -> Result<()> {
    reads("duckdb", DUCKDB)
}

pub(super) fn clickhouse() -> Result<()> {
    reads("clickhouse", CLICKHOUSE)
}

/// What an engine reads is what the agent said.
fn reads(engine: &str, script: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let agent = Agent::start(&settings(folder.path()))?;
    traffic(engine, 40)?;
    // What the archive has not got when the agent ends waits in the spool.
    agent.ledger_at_rest(Duration::from_secs(60))?;
    let stopped = agent.stop_well()?;
    let mut wanted: BTreeMap<(String, Option<String>), (u64, Option<u64>)> = BTreeMap::new();
    let mut closed = 0_u64;
    for event in stopped.events.iter().filter(|event| !is_update(event)) {
        let of = (event.kind.clone(), event.service.clone());
        let (count, sent) = wanted.entry(of).or_default();
        *count += 1;
        if let Some(bytes) = event.bytes_sent {
            *sent = Some(sent.unwrap_or(0) + bytes);
        }
        closed += u64::from(event.flow.as_ref().is_some_and(|flow| flow.state == "closed"));
    }
    ensure!(closed >= 80, "only {closed} closed flows");
    let python = python(engine).with_context(|| format!("no {engine}"))?;
    let said = tools::run_command(
        Command::new(python)
            .args(["-c", script])
            .arg(folder.path().join("archive")),
    )?;
    let mut lines = said.lines();
    let rows: Vec<Row> = serde_json::from_str(lines.next().context("no answer")?)?;
    let mut found = BTreeMap::new();
    for (kind, service, count, distinct, sent, strays) in rows {
        ensure!(
            count == distinct,
            "{kind} {service:?}: {count} lines of {distinct} events"
        );
        ensure!(
            strays == 0,
            "{kind} {service:?}: {strays} events outside of their hour"
        );
        found.insert((kind, service), (count, sent));
    }
    ensure!(
        found == wanted,
        "{engine} reads {found:?}, the agent said {wanted:?}"
    );
    let flows = lines.next().context("no second answer")?;
    ensure!(
        flows == closed.to_string(),
        "{flows} closed flows instead of {closed}"
    );
    Ok(())
}
