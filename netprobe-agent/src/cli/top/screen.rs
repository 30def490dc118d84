//! The ranking on a terminal: keys in, tables out.

use std::{
    io,
    sync::mpsc::{Receiver, Sender, TryRecvError},
    time::Duration,
};

use ratatui::{
    DefaultTerminal, Frame,
    crossterm::event::{self, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::{Cell, Paragraph, Row as TableRow, Table, TableState},
};

use super::{
    Look, beyond,
    ranking::{COLUMNS, Id, Ranking},
};
use crate::{
    cli::{colour::coloured, output::text},
    error::AgentError,
    filter::Filter,
};

/// How long a look that came may wait to be shown.
const TICK: Duration = Duration::from_millis(100);
const KEYS: &str = "q quit  ↑↓ select  enter details  ←→ rank by  r reverse  / filter  p pause";
/// Columns in the order in which a narrow terminal keeps them.
const KEPT: [usize; COLUMNS.len()] = [3, 0, 5, 2, 8, 6, 7, 9, 10, 4, 1];
/// Width the last column is given.
const LAST: usize = 9;

/// What is shown, and what keys change.
struct Screen {
    ranking: Ranking,
    table: TableState,
    /// The flow chosen, wherever it ranks.
    chosen: Option<Id>,
    filter: String,
    /// What is being typed instead.
    typed: Option<String>,
    /// Why there is nothing new, or why what is typed is no filter.
    problem: Option<String>,
    paused: bool,
    details: bool,
    coloured: bool,
    over: bool,
}

/// Shows the ranking until somebody has seen enough.
pub(super) fn run(
    mut ranking: Ranking,
    first: Look,
    filter: String,
    ask: &Sender<String>,
    answers: &Receiver<Result<Look, AgentError>>,
) -> Result<(), AgentError> {
    ranking.take(first);
    let mut screen = Screen {
        ranking,
        table: TableState::default(),
        chosen: None,
        filter,
        typed: None,
        problem: None,
        paused: false,
        details: false,
        coloured: coloured(),
        over: false,
    };
    let unusable = |error: io::Error| {
        AgentError::other(
            format!("the terminal cannot be used: {error}"),
            "use `netprobe top --once`, or set TERM to what the terminal is",
        )
    };
    let mut terminal = ratatui::try_init().map_err(unusable)?;
    let ended = screen.follow(&mut terminal, ask, answers).map_err(unusable);
    ratatui::restore();
    ended
}

impl Screen {
    fn follow(
        &mut self,
        terminal: &mut DefaultTerminal,
        ask: &Sender<String>,
        answers: &Receiver<Result<Look, AgentError>>,
    ) -> io::Result<()> {
        let mut changed = true;
        while !self.over {
            if changed {
                terminal.draw(|frame| self.draw(frame))?;
            }
            changed = self.take(answers);
            if event::poll(TICK)? {
                match event::read()? {
                    event::Event::Key(key) if key.kind == KeyEventKind::Press => self.key(key, ask),
                    _ => {}
                }
                changed = true;
            }
        }
        Ok(())
    }

    /// Takes a look, if there is one; whether there was.
    fn take(&mut self, answers: &Receiver<Result<Look, AgentError>>) -> bool {
        match answers.try_recv() {
            Ok(_) if self.paused => false,
            // One that was asked for before the filter changed.
            Ok(Ok(look)) if look.filter != self.filter => false,
            Ok(Ok(look)) => {
                if self.typed.is_none() {
                    self.problem = None;
                }
                self.ranking.take(look);
                self.reselect();
                true
            }
            Ok(Err(error)) => {
                self.problem = Some(format!("{error}; trying again"));
                true
            }
            Err(TryRecvError::Empty) => false,
            Err(TryRecvError::Disconnected) => {
                self.over = true;
                false
            }
        }
    }

    fn key(&mut self, key: KeyEvent, ask: &Sender<String>) {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            self.over |= key.code == KeyCode::Char('c');
            return;
        }
        if self.typed.is_some() {
            return self.typing(key.code, ask);
        }
        match key.code {
            KeyCode::Char('q') => self.over = true,
            KeyCode::Esc if self.details => self.details = false,
            KeyCode::Enter => self.details = !self.details && self.chosen.is_some(),
            KeyCode::Char('/') => self.typed = Some(self.filter.clone()),
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('r') => {
                self.ranking.reversed = !self.ranking.reversed;
                self.reorder();
            }
            KeyCode::Left | KeyCode::Right => {
                self.ranking.sort = self.ranking.sort.step(key.code == KeyCode::Right);
                self.reorder();
            }
            KeyCode::Up | KeyCode::Char('k') => self.choose(-1),
            KeyCode::Down | KeyCode::Char('j') => self.choose(1),
            KeyCode::PageUp => self.choose(-20),
            KeyCode::PageDown => self.choose(20),
            KeyCode::Home => self.choose(isize::MIN),
            KeyCode::End => self.choose(isize::MAX),
            _ => {}
        }
    }

    /// A key while a filter is typed. What reads as one is asked with at once.
    fn typing(&mut self, code: KeyCode, ask: &Sender<String>) {
        let Some(typed) = &mut self.typed else { return };
        match code {
            KeyCode::Char(c) => typed.push(c),
            KeyCode::Backspace => drop(typed.pop()),
            // What does not read as a filter stays to be mended.
            KeyCode::Enter if self.problem.is_some() => return,
            KeyCode::Enter => {
                self.typed = None;
                return;
            }
            KeyCode::Esc => {
                self.typed = None;
                self.problem = None;
                return;
            }
            _ => return,
        }
        match Filter::parse(typed) {
            Ok(filter) => {
                self.problem = None;
                self.filter = filter.to_string();
                // Without a thread that asks there is no screen either.
                let _ = ask.send(self.filter.clone());
            }
            Err(error) => self.problem = Some(error.to_string()),
        }
    }

    fn reorder(&mut self) {
        self.ranking.order();
        self.reselect();
    }

    /// Keeps the chosen flow chosen, wherever it ranks now.
    fn reselect(&mut self) {
        let rows = &self.ranking.rows;
        let at = self
            .chosen
            .as_ref()
            .and_then(|id| rows.iter().position(|row| row.id() == *id));
        // In its details one that has ended is still told of.
        if at.is_none() && !self.details {
            self.chosen = None;
        }
        self.table.select(at);
    }

    fn choose(&mut self, by: isize) {
        let last = self.ranking.rows.len().saturating_sub(1);
        let at = self
            .table
            .selected()
            .map_or(0, |at| at.saturating_add_signed(by).min(last));
        self.chosen = self.ranking.rows.get(at).map(|row| row.id());
        self.reselect();
    }

    fn style(&self, colour: Color) -> Style {
        if self.coloured {
            Style::new().fg(colour)
        } else {
            Style::new().add_modifier(Modifier::BOLD)
        }
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)])
                .areas(frame.area());
        frame.render_widget(Line::from(self.title()).style(Modifier::BOLD), head);
        if self.details {
            frame.render_widget(Paragraph::new(self.told()), body);
        } else {
            self.table(frame, body);
        }
        let line = match (&self.typed, &self.problem) {
            (Some(typed), None) => Line::from(format!("filter: {typed}▏  enter take  esc leave")),
            (Some(typed), Some(problem)) => {
                Line::from(format!("filter: {typed}▏  {problem}")).style(self.style(Color::Red))
            }
            (None, Some(problem)) => Line::from(problem.as_str()).style(self.style(Color::Red)),
            (None, None) if self.ranking.more => Line::from(beyond()).style(self.style(Color::Yellow)),
            (None, None) => Line::from(KEYS),
        };
        frame.render_widget(line, foot);
    }

    fn title(&self) -> String {
        let order = if self.ranking.reversed { "least" } else { "most" };
        let mut title = format!(
            "netprobe top  {} flows  {order} {} first",
            self.ranking.rows.len(),
            self.ranking.sort.heading()
        );
        if !self.filter.is_empty() {
            title.push_str(&format!("  filter {}", text(Some(&self.filter))));
        }
        if self.paused {
            title.push_str("  PAUSED");
        }
        title
    }

    fn table(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let columns = self.columns(area.width);
        let warned = self.style(Color::Yellow);
        let rows = self.ranking.rows.iter().map(|row| {
            let cells = row.cells();
            let lossy = row.event.flow.as_ref().and_then(|flow| flow.retransmits) > Some(0);
            TableRow::new(columns.iter().map(|at| Cell::from(cells[*at].clone()))).style(if lossy {
                warned
            } else {
                Style::new()
            })
        });
        let sorted = self.ranking.sort.heading();
        let heading = columns.iter().map(|at| {
            let heading = COLUMNS[*at].0;
            let style = if heading == sorted {
                Modifier::BOLD | Modifier::UNDERLINED
            } else {
                Modifier::BOLD
            };
            Cell::from(heading).style(style)
        });
        let widths = columns.iter().map(|at| Constraint::Length(width(*at) as u16));
        let table = Table::new(rows, widths)
            .header(TableRow::new(heading))
            .row_highlight_style(Modifier::REVERSED);
        frame.render_stateful_widget(table, area, &mut self.table);
    }

    /// As many columns as fit, in their order; the one ranked by is among them.
    fn columns(&self, room: u16) -> Vec<usize> {
        let sorted = COLUMNS
            .iter()
            .position(|(heading, _)| *heading == self.ranking.sort.heading());
        let mut left = usize::from(room);
        let mut kept: Vec<usize> = sorted
            .into_iter()
            .chain(KEPT.into_iter().filter(|at| Some(*at) != sorted))
            .take_while(|at| {
                let fits = left > width(*at);
                left = left.saturating_sub(width(*at) + 1);
                fits
            })
            .collect();
        kept.sort_unstable();
        kept
    }

    /// The chosen flow, field by field.
    fn told(&self) -> String {
        let row = self.ranking.rows.iter().find(|row| Some(row.id()) == self.chosen);
        let Some(row) = row else {
            return "It has ended: `netprobe observe` has its last event.".to_owned();
        };
        serde_json::to_string_pretty(&row.event).unwrap_or_else(|error| error.to_string())
    }
}

fn width(column: usize) -> usize {
    match COLUMNS[column].1 {
        0 => LAST,
        width => width,
    }
}
