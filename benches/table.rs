//! The results as a Markdown table, aligned so that it can be read on a terminal too.

use std::fmt::Write as _;

use crate::peers::Server;
use crate::scenarios::{Scenario, Unit};

/// What all rounds of one scenario gave, for one figure of it.
pub(crate) struct Row {
    pub(crate) scenario: &'static Scenario,
    pub(crate) unit: Unit,
    /// For each server its values, one per round; none when it cannot do this or failed.
    pub(crate) values: Vec<(Server, Vec<f64>)>,
}

impl Row {
    fn values(&self, server: Server) -> &[f64] {
        self.values.iter().find(|(of, _)| *of == server).map_or(&[], |(_, values)| values)
    }

    /// How many times as much `server` costs as `base`, by the least of each: where the
    /// scheduler happens to put two processes doubles some figures, and the least of several
    /// rounds has met the same luck on both sides.
    fn ratio(&self, server: Server, base: Server) -> Option<f64> {
        let base = least(self.values(base)).filter(|value| *value > 0.0)?;
        Some(least(self.values(server))? / base)
    }
}

/// Renders the rows: with the minimum beside each median, or for the README the medians alone.
pub(crate) fn render(rows: &[Row], servers: &[(Server, String)], medians_alone: bool) -> String {
    let compared = servers.iter().map(|(server, _)| *server);
    let compared: Vec<Server> = compared.filter(|server| *server != Server::Relay).collect();
    let has_relay = compared.len() < servers.len();

    let has_unjudged = compared.contains(&Server::Unjudged);

    let mut lines = vec![vec!["scenario".to_owned(), "figure".to_owned()]];
    lines[0].extend(servers.iter().map(|(_, name)| name.clone()));
    if has_relay {
        lines[0].extend(compared.iter().map(|server| format!("{} ÷ relay", server.name())));
    }
    if has_unjudged {
        lines[0].push("portcullis ÷ unjudged".to_owned());
    }
    for row in rows {
        let mut line = vec![row.scenario.title.to_owned(), row.unit.name().to_owned()];
        line.extend(servers.iter().map(|(server, _)| cell(row.values(*server), medians_alone)));
        if has_relay {
            line.extend(compared.iter().map(|server| {
                row.ratio(*server, Server::Relay).map_or_else(dash, |ratio| format!("{ratio:.2}"))
            }));
        }
        if has_unjudged {
            let ratio = row.ratio(Server::Portcullis, Server::Unjudged);
            line.push(ratio.map_or_else(dash, |ratio| format!("{ratio:.2}")));
        }
        lines.push(line);
    }
    align(&lines)
}

fn cell(values: &[f64], median_alone: bool) -> String {
    let (Some(median), Some(least)) = (median(values), least(values)) else {
        return dash();
    };
    if median_alone { number(median) } else { format!("{} / {}", number(least), number(median)) }
}

fn dash() -> String {
    "–".to_owned()
}

/// Three digits that mean something.
fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 1.0 => format!("{value:.2}"),
        value => format!("{value:.3}"),
    }
}

fn least(values: &[f64]) -> Option<f64> {
    values.iter().copied().reduce(f64::min)
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

fn align(lines: &[Vec<String>]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: Vec<usize> = (0..lines[0].len()).filter_map(width).collect();
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 | 1 => write!(text, "| {cell:<width$} "),
                _ => write!(text, "| {cell:>width$} "),
            };
        }
        text.push_str("|\n");
        if index == 0 {
            for (column, width) in widths.iter().enumerate() {
                let colon = if column < 2 { '-' } else { ':' };
                let _ = write!(text, "|{}{colon}", "-".repeat(width + 1));
            }
            text.push_str("|\n");
        }
    }
    text
}
