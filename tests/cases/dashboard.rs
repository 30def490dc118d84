//! The dashboard in a real browser.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use netprobe_tests::agent::binary;
use netprobe_tests::lab::{self, addr};
use netprobe_tests::tools;

use super::programs::start_nginx;
use super::{Case, Need};

/// Where the page's sources and its test are.
const WEB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../dashboards/web");

/// Alone: a browser and its patience are easily disturbed.
pub(crate) const CASES: &[Case] = &[Case::new("dashboard_in_a_browser", browser).alone().needs(&[
    Need::Program("node"),
    Need::Program("chromium"),
    Need::Program("curl"),
    Need::Program("nginx"),
    Need::File(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../dashboards/web/node_modules/playwright-core/package.json"
    )),
])];

/// `dashboards/web/test/browser.mjs` does the looking; here is the traffic it looks at.
fn browser() -> Result<()> {
    let lab = lab::gateway()?;
    let folder = tempfile::tempdir()?;
    let _nginx = start_nginx(&lab, "srv", folder.path(), addr(lab::SERVER, 20_480), 10_000)?;
    // A command name of its own: a page shows the whole host.
    let name = "np-browser";
    let client = folder.path().join(name);
    symlink(tools::find("curl").context("curl is not installed")?, &client)?;
    let traffic = format!(
        "nsenter --net={} {} -sS -o /dev/null http://{}/file",
        lab.path("cli").display(),
        client.display(),
        addr(lab::VIRTUAL, 20_480)
    );
    let said = tools::run_command(
        Command::new(tools::find("node").context("node is not installed")?)
            .arg(Path::new(WEB).join("test/browser.mjs"))
            .env("NETPROBE_BIN", binary()?)
            .env("NETPROBE_TRAFFIC", traffic)
            .env("NETPROBE_TRAFFIC_SERVICE", name)
            .env("NETPROBE_TRAFFIC_PORT", "20480")
            .env(
                "CHROMIUM",
                tools::find("chromium").context("chromium is not installed")?,
            ),
    )?;
    // How long it took: figures for docs/performance.md.
    print!("{said}");
    Ok(())
}
