//! The programs of the terminal, on a terminal: tmux types and reads the screen.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, binary};
use netprobe_tests::{tools, wait_for};

use super::{Case, Need, Pair, comm};

pub(crate) const CASES: &[Case] = &[
    Case::new("top_on_a_terminal", top).needs(&[Need::Program("tmux")]),
    Case::new("top_without_a_terminal", once),
    Case::new("observe_colours_for_terminals_only", colours).needs(&[Need::Program("tmux")]),
];

const PATIENCE: Duration = Duration::from_secs(30);

/// A terminal of 150 columns and 40 rows with one program in it, on a tmux of its own.
struct Terminal {
    server: String,
}

impl Terminal {
    fn start(name: &str, arguments: &str) -> Result<Terminal> {
        let terminal = Terminal {
            server: format!("npt-{}-{name}", std::process::id()),
        };
        // Whatever ends in it leaves its screen and its code to be read.
        let command = format!("{} {arguments}; echo left $?; sleep 60", binary()?.display());
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "150",
            "-y",
            "40",
            &command,
        ])?;
        Ok(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> Result<String> {
        let program = tools::find("tmux").context("tmux is not installed")?;
        tools::run_command(
            Command::new(program)
                .args(["-L", &self.server])
                .args(arguments)
                .env("TERM", "screen-256color")
                .env_remove("NO_COLOR")
                .env_remove("TMUX"),
        )
    }

    fn screen(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    fn press(&self, keys: &[&str]) -> Result<()> {
        self.tmux(&[&["send-keys"], keys].concat()).map(drop)
    }

    /// Waits for a screen that is as wanted, and gives it.
    fn shows(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let mut last = String::new();
        wait_for(what, PATIENCE, || {
            last = self.screen().unwrap_or_default();
            wanted(&last).then(|| last.clone())
        })
        .with_context(|| format!("the screen:\n{last}"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Its own server, nobody else's.
        let _ = self.tmux(&["kill-server"]);
    }
}

/// The row that has this text.
fn row(screen: &str, text: &str) -> Option<usize> {
    screen.lines().position(|line| line.contains(text))
}

/// A connection with much traffic and one with none. A live one is sampled when data moves, once a second at most.
fn traffic(busy: &mut Pair, idle: &mut Pair) -> Result<()> {
    let (client, server) = busy.open()?;
    idle.open()?;
    for _ in 0..3 {
        busy.cli.send(client.socket, 50_000)?;
        busy.srv.recv(server.socket, 50_000)?;
        std::thread::sleep(Duration::from_millis(1100));
    }
    Ok(())
}

fn top() -> Result<()> {
    let (mut busy, mut idle) = (Pair::local("topbusy")?, Pair::local("topidle")?);
    traffic(&mut busy, &mut idle)?;
    let (loud, quiet) = (comm('c', "topbusy"), comm('c', "topidle"));
    let socket = busy.agent.socket();
    let terminal = Terminal::start(
        "top",
        &format!("top -d 300ms --sort sent --socket {}", socket.display()),
    )?;
    let both = |screen: &str| row(screen, &loud) < row(screen, &quiet) && row(screen, &loud).is_some();
    terminal.shows("the busier one above the other", both)?;
    // The other way round, and what is typed filters at once.
    terminal.press(&["r"])?;
    terminal.shows("the order turned round", |screen| {
        screen.contains("least SENT first") && row(screen, &quiet) < row(screen, &loud)
    })?;
    terminal.press(&["r", "Right"])?;
    terminal.shows("another column", |screen| screen.contains("most RECEIVED first"))?;
    terminal.press(&["/", "servce==x"])?;
    terminal.shows("what is wrong with the filter", |screen| {
        screen.contains("servce") && screen.contains("did you mean")
    })?;
    // An Escape with a key close behind it is another key.
    terminal.press(&["Escape"])?;
    terminal.shows("the keys again", |screen| screen.contains("q quit"))?;
    terminal.press(&["/", &format!("service=={quiet}")])?;
    terminal.shows("the one asked for alone", |screen| {
        screen.contains(" 1 flows") && row(screen, &loud).is_none()
    })?;
    terminal.press(&["Enter"])?;
    terminal.shows("the keys again", |screen| screen.contains("q quit"))?;
    terminal.press(&["Down", "Enter"])?;
    terminal.shows("details", |screen| {
        screen.contains("\"connection_id\"") && screen.contains(&format!("\"service\": \"{quiet}\""))
    })?;
    terminal.press(&["Escape"])?;
    terminal.shows("the table again", |screen| screen.contains("RETRANS"))?;
    terminal.press(&["p"])?;
    terminal.shows("the pause", |screen| screen.contains("PAUSED"))?;
    terminal.press(&["q"])?;
    terminal.shows("the end", |screen| {
        screen.contains("left 0") && !screen.contains("PAUSED")
    })?;
    Ok(())
}

fn once() -> Result<()> {
    let (mut busy, mut idle) = (Pair::local("oncebusy")?, Pair::local("onceidle")?);
    traffic(&mut busy, &mut idle)?;
    let (loud, quiet) = (comm('c', "oncebusy"), comm('c', "onceidle"));
    let socket = busy.agent.socket();
    let filter = format!("service~^({loud}|{quiet})$");
    let text = tools::run_command(
        Command::new(binary()?)
            .args(["top", "-d", "200ms", "--sort", "sent", "--filter", &filter])
            .arg("--socket")
            .arg(&socket),
    )?;
    let lines: Vec<&str> = text.lines().collect();
    ensure!(
        lines.len() == 3 && lines[0].starts_with("SERVICE"),
        "not one heading and two flows:\n{text}"
    );
    ensure!(lines[1].starts_with(&loud) && lines[1].contains("KiB"), "{text}");
    ensure!(
        lines[2].starts_with(&quiet) && lines[2].contains("0B/s"),
        "{text}"
    );
    Ok(())
}

fn colours() -> Result<()> {
    let agent = Agent::shared()?;
    let mut pair = Pair::local("colour")?;
    let gone = pair.addr.port();
    let listener = pair.listener;
    pair.srv.close(listener)?;
    let reply = pair.cli.attempt(netprobe_tests::traffic::proto::Cmd::Connect {
        addr: pair.addr,
        options: Default::default(),
    })?;
    ensure!(reply.errno != 0, "a closed port answers");
    let asked = format!("observe --last 1 --to-port {gone} --state failed");
    let socket = agent.socket();
    let read = |more: &[&str]| {
        tools::run_command(
            Command::new(binary()?)
                .args(asked.split(' '))
                .args(more)
                .arg("--socket")
                .arg(&socket)
                .env_remove("NO_COLOR"),
        )
    };
    let plain = wait_for("the failed connect", PATIENCE, || {
        read(&[]).ok().filter(|text| !text.is_empty())
    })?;
    let red = read(&["--color", "always"])?;
    ensure!(!plain.contains('\x1b'), "colours in a pipe: {plain:?}");
    ensure!(
        red == format!("\x1b[31m{}\x1b[0m\n", plain.trim_end()),
        "an error is red, and nothing else: {red:?}"
    );
    let terminal = Terminal::start("colours", &format!("{asked} --socket {}", socket.display()))?;
    terminal.shows("the failed connect", |screen| screen.contains("left 0"))?;
    let screen = terminal.tmux(&["capture-pane", "-p", "-e"])?;
    ensure!(
        screen.contains("\x1b[31m"),
        "no colours on a terminal: {screen:?}"
    );
    Ok(())
}
